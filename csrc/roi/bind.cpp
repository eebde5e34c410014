// Binding of the RoI operators: pointers and sizes in. Shapes and dtypes are checked in Python,
// where the tensors are; the caller keeps them alive until the call returns.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "roi/roi_replay.h"

namespace py = pybind11;

namespace fastregion {
namespace {

RoiReplayParams roi_replay_params(int dtype, std::uintptr_t tokens, int64_t token_stride,
                                  std::uintptr_t bins, int64_t bin_stride, std::uintptr_t boxes,
                                  int64_t num_rois, int64_t channels, int64_t grid_rows,
                                  int64_t grid_columns, int64_t tile_height, int64_t tile_width,
                                  int64_t output_height, int64_t output_width) {
  return {.dtype = static_cast<DType>(dtype),
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
          .output_width = output_width};
}

}  // namespace

void bind_roi(py::module_& module) {
  module.doc() = "RoI-Align and its replay on tiles; see roi_replay.h.";
  py::class_<RoiReplayParams>(module, "RoiReplayParams")
      .def(py::init(&roi_replay_params), py::kw_only(), py::arg("dtype"), py::arg("tokens"),
           py::arg("token_stride"), py::arg("bins"), py::arg("bin_stride"), py::arg("boxes"),
           py::arg("num_rois"), py::arg("channels"), py::arg("grid_rows"), py::arg("grid_columns"),
           py::arg("tile_height"), py::arg("tile_width"), py::arg("output_height"),
           py::arg("output_width"));
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("roi_replay", &cpu::roi_replay, py::arg("params"), py::arg("num_threads"), release);
  module.def("roi_replay_backward", &cpu::roi_replay_backward, py::arg("params"),
             py::arg("num_threads"), release);
}

}  // namespace fastregion
