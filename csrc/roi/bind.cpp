// Binding of the RoI operators: pointers and sizes in. Shapes and dtypes are checked in Python,
// where the tensors are; the caller keeps them alive until the call returns. The last arguments say
// where to run.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "roi/roi_replay.h"
#ifdef FASTREGION_WITH_CUDA
#include "core/device.h"
#endif

namespace py = pybind11;

namespace fastregion {
namespace {

using Address = std::uintptr_t;

RoiReplayParams roi_replay_params(int dtype, Address tokens, Address bins, Address boxes,
                                  int64_t token_stride, int64_t bin_stride, int64_t num_rois,
                                  int64_t channels, int64_t grid_rows, int64_t grid_columns,
                                  int64_t tile_height, int64_t tile_width, int64_t output_height,
                                  int64_t output_width) {
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

#ifdef FASTREGION_WITH_CUDA
template <void (*function)(const RoiReplayParams&, cudaStream_t)>
void on_device(const RoiReplayParams& params, int device, Address stream) {
  const DeviceGuard guard(device);
  function(params, reinterpret_cast<cudaStream_t>(stream));
}
#endif

}  // namespace

void bind_roi(py::module_& module) {
  module.doc() = "RoI-Align and its replay on tiles; see roi_replay.h.";
  // Positional arguments: keywords would cost more than a small operator.
  py::class_<RoiReplayParams>(module, "RoiReplayParams").def(py::init(&roi_replay_params));
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("roi_replay", &cpu::roi_replay, release);
  module.def("roi_replay_backward", &cpu::roi_replay_backward, release);
#ifdef FASTREGION_WITH_CUDA
  module.def("roi_replay_cuda", &on_device<&cuda::roi_replay>, release);
  module.def("roi_replay_backward_cuda", &on_device<&cuda::roi_replay_backward>, release);
#endif
}

}  // namespace fastregion
