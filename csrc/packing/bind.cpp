// Binding of the packing operators: pointers and sizes in. Shapes and dtypes are checked in Python,
// where the tensors are; the caller keeps them alive until the call returns.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <vector>

#include "packing/pack_tokens.h"

namespace py = pybind11;

namespace fastregion {
namespace {

using Address = std::uintptr_t;

void pack_rows(int num_threads, const std::vector<Address>& sources,
               const std::vector<int64_t>& num_rows, const std::vector<int64_t>& row_strides,
               Address rows, Address out, int64_t total, int64_t row_bytes) {
  std::vector<RowSource> row_sources;
  for (size_t s = 0; s < sources.size(); ++s) {
    row_sources.push_back({reinterpret_cast<const void*>(sources[s]), num_rows[s], row_strides[s]});
  }
  cpu::pack_rows({.sources = row_sources,
                  .rows = reinterpret_cast<const int64_t*>(rows),
                  .out = reinterpret_cast<void*>(out),
                  .total = total,
                  .row_bytes = row_bytes},
                 num_threads);
}

void scatter_rows(int num_threads, int dtype, Address grad, int64_t grad_stride, Address rows,
                  int64_t total, int64_t start, Address out, int64_t num_rows, int64_t channels) {
  cpu::scatter_rows({.dtype = static_cast<DType>(dtype),
                     .grad = reinterpret_cast<const void*>(grad),
                     .grad_stride = grad_stride,
                     .rows = reinterpret_cast<const int64_t*>(rows),
                     .total = total,
                     .start = start,
                     .num_rows = num_rows,
                     .out = reinterpret_cast<void*>(out),
                     .channels = channels},
                    num_threads);
}

}  // namespace

void bind_packing(py::module_& module) {
  module.doc() = "Packed prompts; see pack_tokens.h.";
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("pack_rows", &pack_rows, release);
  module.def("scatter_rows", &scatter_rows, release);
}

}  // namespace fastregion
