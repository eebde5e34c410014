// Binding of the RoI operators.
#include "core/bind.h"

#include "roi/roi_align.h"
#include "roi/roi_replay.h"

namespace fastregion {
namespace {

RoiReplayParams roi_replay_params(int dtype, Address tokens, Address bins, Address boxes,
                                  int64_t token_stride, int64_t box_stride, int64_t bin_stride,
                                  int64_t num_rois, int64_t channels, int64_t grid_rows,
                                  int64_t grid_columns, int64_t tile_height, int64_t tile_width,
                                  int64_t output_height, int64_t output_width) {
  return {.dtype = static_cast<DType>(dtype),
          .tokens = reinterpret_cast<void*>(tokens),
          .bins = reinterpret_cast<void*>(bins),
          .boxes = reinterpret_cast<const void*>(boxes),
          .token_stride = token_stride,
          .box_stride = box_stride,
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

RoiAlignParams roi_align_params(int dtype, Address input, Address bins, Address rois,
                                int64_t num_images, int64_t channels, int64_t height, int64_t width,
                                int64_t batch_stride, int64_t channel_stride, int64_t row_stride,
                                int64_t column_stride, int64_t num_rois, int64_t output_height,
                                int64_t output_width, int64_t sampling_ratio, double spatial_scale,
                                bool aligned) {
  return {.dtype = static_cast<DType>(dtype),
          .input = reinterpret_cast<void*>(input),
          .bins = reinterpret_cast<void*>(bins),
          .rois = reinterpret_cast<const void*>(rois),
          .num_images = num_images,
          .channels = channels,
          .height = height,
          .width = width,
          .batch_stride = batch_stride,
          .channel_stride = channel_stride,
          .row_stride = row_stride,
          .column_stride = column_stride,
          .num_rois = num_rois,
          .output_height = output_height,
          .output_width = output_width,
          .sampling_ratio = sampling_ratio,
          .spatial_scale = spatial_scale,
          .aligned = aligned};
}

}  // namespace

void bind_roi(py::module_& module) {
  module.doc() = "RoI-Align and its replay on tiles; see roi_replay.h.";
  // Positional arguments: keywords would cost more than a small operator.
  py::class_<RoiReplayParams>(module, "RoiReplayParams").def(py::init(&roi_replay_params));
  py::class_<RoiAlignParams>(module, "RoiAlignParams").def(py::init(&roi_align_params));
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("roi_replay", &cpu::roi_replay, release);
  module.def("roi_replay_backward", &cpu::roi_replay_backward, release);
  module.def("roi_align", &cpu::roi_align, release);
  module.def("roi_align_backward", &cpu::roi_align_backward, release);
#ifdef FASTREGION_WITH_CUDA
  using Replay = RoiReplayParams;
  using Align = RoiAlignParams;
  module.def("roi_replay_cuda", &on_device<Replay, &cuda::roi_replay>, release);
  module.def("roi_replay_backward_cuda", &on_device<Replay, &cuda::roi_replay_backward>, release);
  module.def("roi_align_cuda", &on_device<Align, &cuda::roi_align>, release);
  module.def("roi_align_backward_cuda", &on_device<Align, &cuda::roi_align_backward>, release);
  module.def("roi_align_backward_atomic_cuda", &on_device<Align, &cuda::roi_align_backward_atomic>,
             release);
#endif
}

}  // namespace fastregion
