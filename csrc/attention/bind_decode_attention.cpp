// Binding of decode_attention and of the cache it reads.
#include <tuple>

#include "attention/attention_cache.h"
#include "attention/decode_attention.h"
#include "core/bind.h"

namespace fastregion {
namespace {

using CacheTuple = std::tuple<Address, Address, int64_t, int64_t>;
using TokensTuple = std::tuple<Address, int64_t, int64_t>;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

KvCache cache(const CacheTuple& values) {
  const auto [keys, cached_values, num_rows, num_blocks] = values;
  return {pointer<void>(keys), pointer<void>(cached_values), num_rows, num_blocks};
}

TokenHeads tokens(const TokensTuple& values) {
  const auto [data, token_stride, head_stride] = values;
  return {pointer<const void>(data), token_stride, head_stride};
}

AppendParams append_params(int dtype, const CacheTuple& kv, const TokensTuple& k_new,
                           const TokensTuple& v_new, Address rows, Address columns,
                           int64_t num_tokens, int64_t num_kv_heads, int64_t width) {
  return {.dtype = static_cast<DType>(dtype),
          .cache = cache(kv),
          .k_new = tokens(k_new),
          .v_new = tokens(v_new),
          .rows = pointer<const int64_t>(rows),
          .columns = pointer<const int64_t>(columns),
          .num_tokens = num_tokens,
          .num_kv_heads = num_kv_heads,
          .width = width};
}

DecodeAttentionParams decode_attention_params(int dtype, const TokensTuple& query, Address out,
                                              Address logsumexp, const CacheTuple& kv,
                                              const TokensTuple& k_new, const TokensTuple& v_new,
                                              Address lengths, Address bounds, Address rows,
                                              const CacheTuple& prefix, Address prefix_lengths,
                                              Address prefix_of, int64_t num_sequences,
                                              int64_t num_tokens, int64_t num_heads,
                                              int64_t num_kv_heads, int64_t width, double scale) {
  return {.dtype = static_cast<DType>(dtype),
          .query = tokens(query),
          .out = pointer<void>(out),
          .logsumexp = pointer<void>(logsumexp),
          .cache = cache(kv),
          .k_new = tokens(k_new),
          .v_new = tokens(v_new),
          .lengths = pointer<const int32_t>(lengths),
          .bounds = pointer<const int32_t>(bounds),
          .rows = pointer<const int32_t>(rows),
          .prefix = cache(prefix),
          .prefix_lengths = pointer<const int32_t>(prefix_lengths),
          .prefix_of = pointer<const int32_t>(prefix_of),
          .num_sequences = num_sequences,
          .num_tokens = num_tokens,
          .num_heads = num_heads,
          .num_kv_heads = num_kv_heads,
          .width = width,
          .scale = scale};
}

// The CPU kernel makes its own: what it needs depends on the lengths.
int64_t no_workspace(const DecodeAttentionParams&, int) { return 0; }

void decode_attention(const DecodeAttentionParams& params, Address, int num_threads) {
  cpu::decode_attention(params, num_threads);
}

#ifdef FASTREGION_WITH_CUDA
void append_kv_cuda(const AppendParams& params, int device, Address stream) {
  const DeviceGuard guard(device);
  cuda::append_kv(params, reinterpret_cast<cudaStream_t>(stream));
}

int64_t workspace_cuda(const DecodeAttentionParams& params, int, Address) {
  return cuda::decode_attention_workspace(params);
}

void decode_attention_cuda(const DecodeAttentionParams& params, Address workspace, int device,
                           Address stream) {
  const DeviceGuard guard(device);
  cuda::decode_attention(params, pointer<void>(workspace), reinterpret_cast<cudaStream_t>(stream));
}
#endif

}  // namespace

void bind_decode_attention(py::module_& module) {
  // Positional arguments: keywords would cost more than a small operator.
  py::class_<AppendParams>(module, "AppendParams").def(py::init(&append_params));
  py::class_<DecodeAttentionParams>(module, "DecodeAttentionParams")
      .def(py::init(&decode_attention_params));
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("append_kv", &cpu::append_kv, release);
  module.def("decode_attention_workspace", &no_workspace);
  module.def("decode_attention", &decode_attention, release);
#ifdef FASTREGION_WITH_CUDA
  module.def("append_kv_cuda", &append_kv_cuda, release);
  module.def("decode_attention_workspace_cuda", &workspace_cuda);
  module.def("decode_attention_cuda", &decode_attention_cuda, release);
#endif
}

}  // namespace fastregion
