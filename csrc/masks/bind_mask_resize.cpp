// Binding of mask_tiles and mask_resize.
#include "core/bind.h"
#include "masks/mask_resize.h"
#include "masks/mask_tiles.h"

namespace fastregion {
namespace {

MaskTilesParams mask_tiles_params(Address masks, Address tiles, Address source_rows,
                                  Address source_columns, int64_t num_masks, int64_t height,
                                  int64_t width, int64_t grid_rows, int64_t grid_columns,
                                  int64_t tile_height, int64_t tile_width, bool thumbnail) {
  return {.masks = reinterpret_cast<const uint64_t*>(masks),
          .tiles = reinterpret_cast<uint64_t*>(tiles),
          .source_rows = reinterpret_cast<const int64_t*>(source_rows),
          .source_columns = reinterpret_cast<const int64_t*>(source_columns),
          .num_masks = num_masks,
          .height = height,
          .width = width,
          .grid_rows = grid_rows,
          .grid_columns = grid_columns,
          .tile_height = tile_height,
          .tile_width = tile_width,
          .thumbnail = thumbnail};
}

MaskResizeParams mask_resize_params(bool fixed_point, Address masks, Address out, int64_t num_masks,
                                    int64_t height, int64_t width, int64_t out_height,
                                    int64_t out_width, Address row_windows, Address row_weights,
                                    int64_t row_taps, Address column_windows,
                                    Address column_weights, int64_t column_taps) {
  const auto axis = [](Address windows, Address weights, int64_t taps) -> ResizeAxis {
    return {reinterpret_cast<const int32_t*>(windows), reinterpret_cast<const void*>(weights),
            taps};
  };
  return {.fixed_point = fixed_point,
          .masks = reinterpret_cast<const uint64_t*>(masks),
          .out = reinterpret_cast<uint8_t*>(out),
          .num_masks = num_masks,
          .height = height,
          .width = width,
          .out_height = out_height,
          .out_width = out_width,
          .rows = axis(row_windows, row_weights, row_taps),
          .columns = axis(column_windows, column_weights, column_taps)};
}

#ifdef FASTREGION_WITH_CUDA
void mask_resize_cuda(const MaskResizeParams& params, Address workspace, int device,
                      Address stream) {
  const DeviceGuard guard(device);
  cuda::mask_resize(params, reinterpret_cast<void*>(workspace),
                    reinterpret_cast<cudaStream_t>(stream));
}
#endif

}  // namespace

void bind_mask_resize(py::module_& module) {
  // Positional arguments: keywords would cost more than a small operator.
  py::class_<MaskTilesParams>(module, "MaskTilesParams").def(py::init(&mask_tiles_params));
  py::class_<MaskResizeParams>(module, "MaskResizeParams").def(py::init(&mask_resize_params));
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("mask_tiles", &cpu::mask_tiles, release);
  module.def(
      "mask_resize",
      [](const MaskResizeParams& params, Address, int num_threads) {
        cpu::mask_resize(params, num_threads);
      },
      release);
  module.def("mask_resize_workspace", [](const MaskResizeParams&, int) { return int64_t{0}; });
#ifdef FASTREGION_WITH_CUDA
  module.def("mask_tiles_cuda", &on_device<MaskTilesParams, &cuda::mask_tiles>, release);
  module.def("mask_resize_cuda", &mask_resize_cuda, release);
  module.def("mask_resize_workspace_cuda", [](const MaskResizeParams& params, int, Address) {
    return cuda::mask_resize_workspace(params);
  });
#endif
}

}  // namespace fastregion
