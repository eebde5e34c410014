// CUDA side of append_kv; the layout is in the header. A thread moves one element of a key and of a
// value: neighbouring threads read neighbouring channels. Traffic: every token read once; written
// in pairs of keys and single values, whose lines the next tokens share.
#include "attention/attention_cache.h"
#include "core/device.h"

namespace fastregion::cuda {
namespace {

constexpr int kThreads = 256;

template <class Word>
__global__ void __launch_bounds__(kThreads) append_kv_kernel(AppendParams p, int64_t total) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t d = index % p.width;
  const int64_t head = index / p.width % p.num_kv_heads;
  const int64_t token = index / p.width / p.num_kv_heads;

  const int64_t row = p.rows[token], column = p.columns[token];
  if (row < 0 || row >= p.cache.num_rows || column < 0 || column >= kv_capacity(p.cache)) return;
  const auto from = [&](const TokenHeads& tokens) {
    return static_cast<const Word*>(
        tokens.data)[token * tokens.token_stride + head * tokens.head_stride + d];
  };
  const int64_t start = kv_row(p.cache, row, p.num_kv_heads, head, p.width);
  static_cast<Word*>(p.cache.keys)[start + key_offset(column, d, p.width)] = from(p.k_new);
  static_cast<Word*>(p.cache.values)[start + value_offset(column, d, p.width)] = from(p.v_new);
}

}  // namespace

void append_kv(const AppendParams& params, cudaStream_t stream) {
  const int64_t total = params.num_tokens * params.num_kv_heads * params.width;
  if (total == 0) return;  // an empty grid is a launch error
  dispatch_word(params.dtype, "append_kv_", [&](auto tag) {
    launch("append_kv_", append_kv_kernel<typename decltype(tag)::type>,
           {.blocks = ceil_div<int64_t>(total, kThreads), .threads = kThreads, .stream = stream},
           params, total);
  });
}

}  // namespace fastregion::cuda
