// Binding of the packing operators.
#include "core/bind.h"

#include <pybind11/stl.h>

#include <tuple>
#include <vector>

#include "packing/pack_tokens.h"

namespace fastregion {
namespace {

// (address, number of rows, stride in bytes)
using SourceTuple = std::tuple<Address, int64_t, int64_t>;

PackRowsParams pack_rows_params(const std::vector<SourceTuple>& sources, Address rows, Address out,
                                int64_t out_stride, int64_t total, int64_t row_bytes,
                                bool in_place) {
  PackRowsParams params{.sources = {},
                        .rows = reinterpret_cast<const int64_t*>(rows),
                        .out = reinterpret_cast<void*>(out),
                        .out_stride = out_stride,
                        .total = total,
                        .row_bytes = row_bytes,
                        .in_place = in_place};
  for (const auto& [address, num_rows, row_stride] : sources) {
    params.sources.push_back({reinterpret_cast<const void*>(address), num_rows, row_stride});
  }
  return params;
}

ScatterRowsParams scatter_rows_params(int dtype, Address grad, int64_t grad_stride,
                                      Address sorted_rows, Address places, int64_t total,
                                      int64_t start, int64_t num_rows, Address out,
                                      int64_t channels) {
  return {.dtype = static_cast<DType>(dtype),
          .grad = reinterpret_cast<const void*>(grad),
          .grad_stride = grad_stride,
          .sorted_rows = reinterpret_cast<const int64_t*>(sorted_rows),
          .places = reinterpret_cast<const int64_t*>(places),
          .total = total,
          .start = start,
          .num_rows = num_rows,
          .out = reinterpret_cast<void*>(out),
          .channels = channels};
}

}  // namespace

void bind_packing(py::module_& module) {
  module.doc() = "Packed prompts; see pack_tokens.h.";
  const auto release = py::call_guard<py::gil_scoped_release>();
  py::class_<PackRowsParams>(module, "PackRowsParams").def(py::init(&pack_rows_params));
  py::class_<ScatterRowsParams>(module, "ScatterRowsParams").def(py::init(&scatter_rows_params));
  module.def("pack_rows", &cpu::pack_rows, release);
  module.def("scatter_rows", &cpu::scatter_rows, release);
#ifdef FASTREGION_WITH_CUDA
  module.def("pack_rows_cuda", &on_device<PackRowsParams, &cuda::pack_rows>, release);
  module.def("scatter_rows_cuda", &on_device<ScatterRowsParams, &cuda::scatter_rows>, release);
#endif
}

}  // namespace fastregion
