// CUDA side of the gradient of cross_attention: what comes before and after its two large kernels.
//
//   offsets   D = dout . out - dlogsumexp, one warp a row and head; reads dout and out once
//   queries   cross_attention_query_gradients.cu: dq
//   keys      cross_attention_key_gradients.cu: dk, dv, and dbias by head
//   bias      dbias, the sum over heads in their order; one thread a key
//
// Workspace: (heads * queries + key-value heads * keys if there is a bias) floats or doubles.
#include "attention/cross_attention_backward.h"

namespace fastregion::cuda {
namespace {

constexpr const char* kOp = "cross_attention_backward";
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

int64_t offsets_bytes(const CrossAttentionParams& p) {
  const int64_t acc = p.dtype == DType::kFloat64 ? 8 : 4;
  return ceil_div<int64_t>(total_queries(p) * p.num_heads * acc, 16) * 16;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    offsets_kernel(CrossAttentionParams p, CrossAttentionGradients g, accumulate_t<T>* offsets) {
  using Acc = accumulate_t<T>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (index >= total_queries(p) * p.num_heads) return;  // whole warps leave; no barrier below
  const int64_t head = index % p.num_heads, row = index / p.num_heads;
  const int64_t sequence = is_packed(p) ? 0 : row / p.num_queries;
  const int64_t token = is_packed(p) ? row : row % p.num_queries;
  const T* out = rows_of<T>(p, p.out, sequence, 0, 0, head).data + token * p.out.token_stride;
  const T* grad =
      rows_of<T>(p, g.grad_out, sequence, 0, 0, head).data + token * g.grad_out.token_stride;
  Acc sum = 0;
  for (int64_t column = lane; column < p.width; column += kWarp) {
    sum += to_float(out[column]) * to_float(grad[column]);
  }
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
  if (lane != 0) return;
  if (g.grad_logsumexp != nullptr) sum -= static_cast<const Acc*>(g.grad_logsumexp)[index];
  const bool sees_none = static_cast<const Acc*>(p.logsumexp)[index] == -kInfinity<Acc>;
  offsets[index] = sees_none ? Acc{0} : sum;
}

template <class Acc>
__global__ void __launch_bounds__(kThreads)
    bias_kernel(const Acc* parts, Acc* grad_bias, int64_t num_kv_heads, int64_t num_keys) {
  const int64_t key = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (key >= num_keys) return;  // no barrier below
  Acc sum = 0;
  for (int64_t head = 0; head < num_kv_heads; ++head) sum += parts[head * num_keys + key];
  grad_bias[key] = sum;
}

template <class T>
void backward(const CrossAttentionParams& p, const CrossAttentionGradients& g,
              const BackwardWorkspace& workspace, cudaStream_t stream) {
  using Acc = accumulate_t<T>;
  const int64_t rows = total_queries(p) * p.num_heads;
  if (rows > 0) {
    launch(kOp, offsets_kernel<T>,
           {.blocks = ceil_div<int64_t>(rows, kWarps), .threads = kThreads, .stream = stream}, p, g,
           static_cast<Acc*>(workspace.offsets));
  }
  if (g.query.data != nullptr) query_gradients(p, g, workspace, stream);
  if (g.key.data != nullptr || g.value.data != nullptr || g.key_bias != nullptr) {
    key_gradients(p, g, workspace, stream);
  }
  const int64_t keys = total_keys(p);
  if (g.key_bias != nullptr && keys > 0) {
    launch(kOp, bias_kernel<Acc>,
           {.blocks = ceil_div<int64_t>(keys, kThreads), .threads = kThreads, .stream = stream},
           static_cast<const Acc*>(workspace.bias_parts), static_cast<Acc*>(g.key_bias),
           p.num_kv_heads, keys);
  }
}

}  // namespace

int64_t cross_attention_workspace(const CrossAttentionParams& p) {
  const int64_t acc = p.dtype == DType::kFloat64 ? 8 : 4;
  const int64_t parts = p.key_bias == nullptr ? 0 : total_keys(p) * p.num_kv_heads;
  return offsets_bytes(p) + parts * acc;
}

void cross_attention_backward(const CrossAttentionParams& p, const CrossAttentionGradients& g,
                              void* memory, cudaStream_t stream) {
  const BackwardWorkspace workspace = {
      .offsets = memory,
      .bias_parts =
          g.key_bias == nullptr ? nullptr : static_cast<char*>(memory) + offsets_bytes(p)};
  dispatch_float<__half, __nv_bfloat16>(p.dtype, kOp, [&](auto tag) {
    backward<typename decltype(tag)::type>(p, g, workspace, stream);
  });
}

}  // namespace fastregion::cuda
