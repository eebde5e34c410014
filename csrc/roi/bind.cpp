// Binding of the RoI operators: pointers and sizes in. Shapes and dtypes are checked in Python,
// where the tensors are; the caller keeps them alive until the call returns.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "roi/roi_replay.h"

namespace py = pybind11;

namespace fastregion {
namespace {

// Positional, in the order of RoiReplayParams: keywords would cost more than a small operator.
template <void (*function)(const RoiReplayParams&, int)>
void run_roi_replay(int num_threads, int dtype, std::uintptr_t tokens, std::uintptr_t bins,
                    std::uintptr_t boxes, int64_t token_stride, int64_t bin_stride,
                    int64_t num_rois, int64_t channels, int64_t grid_rows, int64_t grid_columns,
                    int64_t tile_height, int64_t tile_width, int64_t output_height,
                    int64_t output_width) {
  function({.dtype = static_cast<DType>(dtype),
            .tokens = reinterpret_cast<void*>(tokens),
            .bins = reinterpret_cast<void*>(bins),
            .boxes = reinterpret_cast<const void*>(boxes),
            .token_stride = token_stride,
            .bin_stride = bin_stride,
            .num_rois = num_rois,
            .channels = channels,
            .grid_rows = grid_rows,
            .grid_columns = grid_columns,
            .tile_height = tile_height,
            .tile_width = tile_width,
            .output_height = output_height,
            .output_width = output_width},
           num_threads);
}

}  // namespace

void bind_roi(py::module_& module) {
  module.doc() = "RoI-Align and its replay on tiles; see roi_replay.h.";
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("roi_replay", &run_roi_replay<&cpu::roi_replay>, release);
  module.def("roi_replay_backward", &run_roi_replay<&cpu::roi_replay_backward>, release);
}

}  // namespace fastregion
