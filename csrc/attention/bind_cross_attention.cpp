// Binding of cross_attention; the gradient's workspace has the bytes that
// cross_attention_workspace returns.
#include "attention/cross_attention.h"
#include "core/bind.h"

namespace fastregion {
namespace {

AttentionTensor attention_tensor(Address data, int64_t batch_stride, int64_t token_stride,
                                 int64_t head_stride) {
  return {.data = reinterpret_cast<void*>(data),
          .batch_stride = batch_stride,
          .token_stride = token_stride,
          .head_stride = head_stride};
}

CrossAttentionParams cross_attention_params(
    int dtype, const AttentionTensor& query, const AttentionTensor& key,
    const AttentionTensor& value, const AttentionTensor& out, Address key_bias, int64_t bias_stride,
    Address logsumexp, Address query_bounds, Address key_bounds, int64_t num_sequences,
    int64_t num_queries, int64_t num_keys, int64_t num_heads, int64_t num_kv_heads, int64_t width,
    double scale, bool causal) {
  return {.dtype = static_cast<DType>(dtype),
          .query = query,
          .key = key,
          .value = value,
          .out = out,
          .key_bias = reinterpret_cast<const void*>(key_bias),
          .bias_stride = bias_stride,
          .logsumexp = reinterpret_cast<void*>(logsumexp),
          .query_bounds = reinterpret_cast<const int32_t*>(query_bounds),
          .key_bounds = reinterpret_cast<const int32_t*>(key_bounds),
          .num_sequences = num_sequences,
          .num_queries = num_queries,
          .num_keys = num_keys,
          .num_heads = num_heads,
          .num_kv_heads = num_kv_heads,
          .width = width,
          .scale = scale,
          .causal = causal};
}

CrossAttentionGradients cross_attention_gradients(const AttentionTensor& grad_out,
                                                  Address grad_logsumexp,
                                                  const AttentionTensor& query,
                                                  const AttentionTensor& key,
                                                  const AttentionTensor& value, Address key_bias) {
  return {.grad_out = grad_out,
          .grad_logsumexp = reinterpret_cast<const void*>(grad_logsumexp),
          .query = query,
          .key = key,
          .value = value,
          .key_bias = reinterpret_cast<void*>(key_bias)};
}

// The CPU kernels need no workspace.
int64_t no_workspace(const CrossAttentionParams&, int) { return 0; }

void cross_attention_backward(const CrossAttentionParams& params,
                              const CrossAttentionGradients& gradients, Address, int num_threads) {
  cpu::cross_attention_backward(params, gradients, num_threads);
}

#ifdef FASTREGION_WITH_CUDA
int64_t cross_attention_workspace_cuda(const CrossAttentionParams& params, int, Address) {
  return cuda::cross_attention_workspace(params);
}

void cross_attention_cuda(const CrossAttentionParams& params, int device, Address stream) {
  const DeviceGuard guard(device);
  cuda::cross_attention(params, reinterpret_cast<cudaStream_t>(stream));
}

void cross_attention_backward_cuda(const CrossAttentionParams& params,
                                   const CrossAttentionGradients& gradients, Address workspace,
                                   int device, Address stream) {
  const DeviceGuard guard(device);
  cuda::cross_attention_backward(params, gradients, reinterpret_cast<void*>(workspace),
                                 reinterpret_cast<cudaStream_t>(stream));
}
#endif

}  // namespace

void bind_cross_attention(py::module_& module) {
  // Positional arguments: keywords would cost more than a small operator.
  py::class_<AttentionTensor>(module, "AttentionTensor").def(py::init(&attention_tensor));
  py::class_<CrossAttentionParams>(module, "CrossAttentionParams")
      .def(py::init(&cross_attention_params));
  py::class_<CrossAttentionGradients>(module, "CrossAttentionGradients")
      .def(py::init(&cross_attention_gradients));
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("cross_attention_workspace", &no_workspace);
  module.def("cross_attention", &cpu::cross_attention, release);
  module.def("cross_attention_backward", &cross_attention_backward, release);
#ifdef FASTREGION_WITH_CUDA
  module.def("cross_attention_workspace_cuda", &cross_attention_workspace_cuda);
  module.def("cross_attention_cuda", &cross_attention_cuda, release);
  module.def("cross_attention_backward_cuda", &cross_attention_backward_cuda, release);
#endif
}

}  // namespace fastregion
