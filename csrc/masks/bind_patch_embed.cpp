// Binding of mask_patch_embed.
#include "core/bind.h"
#include "masks/mask_patch_embed.h"

namespace fastregion {
namespace {

MaskPatches patches(int dtype, bool grey, Address tiles, int64_t num_tiles, int64_t height,
                    int64_t width, int64_t kernel_size, double outside) {
  return {.dtype = static_cast<DType>(dtype),
          .grey = grey,
          .tiles = reinterpret_cast<const void*>(tiles),
          .num_tiles = num_tiles,
          .height = height,
          .width = width,
          .kernel_size = kernel_size,
          .outside = outside};
}

MaskPatchWeight weight(int dtype, int64_t channels, int64_t input_channels, int64_t kernel_size) {
  return {.dtype = static_cast<DType>(dtype),
          .channels = channels,
          .input_channels = input_channels,
          .kernel_size = kernel_size};
}

MaskPatchTokens tokens(Address table, Address bias, Address add_to, Address out,
                       int64_t tile_stride, int64_t token_stride, int64_t channels,
                       bool add_background) {
  return {.table = reinterpret_cast<const void*>(table),
          .bias = reinterpret_cast<const void*>(bias),
          .add_to = reinterpret_cast<const void*>(add_to),
          .out = reinterpret_cast<void*>(out),
          .tile_stride = tile_stride,
          .token_stride = token_stride,
          .channels = channels,
          .add_background = add_background};
}

void make_table(const MaskPatchWeight& kernel, Address from, Address table, int num_threads) {
  cpu::mask_patch_table(kernel, reinterpret_cast<const void*>(from), reinterpret_cast<void*>(table),
                        num_threads);
}

void backward(const MaskPatches& tiles, const MaskPatchWeight& kernel, Address grad,
              Address grad_weight, int num_threads) {
  cpu::mask_patch_embed_backward(tiles, kernel, reinterpret_cast<const void*>(grad),
                                 reinterpret_cast<void*>(grad_weight), num_threads);
}

#ifdef FASTREGION_WITH_CUDA
void make_table_cuda(const MaskPatchWeight& kernel, Address from, Address table, int device,
                     Address stream) {
  const DeviceGuard guard(device);
  cuda::mask_patch_table(kernel, reinterpret_cast<const void*>(from),
                         reinterpret_cast<void*>(table), reinterpret_cast<cudaStream_t>(stream));
}

void embed_cuda(const MaskPatches& tiles, const MaskPatchTokens& to, int device, Address stream) {
  const DeviceGuard guard(device);
  cuda::mask_patch_embed(tiles, to, reinterpret_cast<cudaStream_t>(stream));
}

void backward_cuda(const MaskPatches& tiles, const MaskPatchWeight& kernel, Address grad,
                   Address grad_weight, int device, Address stream) {
  const DeviceGuard guard(device);
  cuda::mask_patch_embed_backward(tiles, kernel, reinterpret_cast<const void*>(grad),
                                  reinterpret_cast<void*>(grad_weight),
                                  reinterpret_cast<cudaStream_t>(stream));
}
#endif

}  // namespace

void bind_mask_patch_embed(py::module_& module) {
  py::class_<MaskPatches>(module, "MaskPatches").def(py::init(&patches));
  py::class_<MaskPatchWeight>(module, "MaskPatchWeight").def(py::init(&weight));
  py::class_<MaskPatchTokens>(module, "MaskPatchTokens").def(py::init(&tokens));
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("mask_patch_table", &make_table, release);
  module.def("mask_patch_embed", &cpu::mask_patch_embed, release);
  module.def("mask_patch_embed_backward", &backward, release);
#ifdef FASTREGION_WITH_CUDA
  module.def("mask_patch_table_cuda", &make_table_cuda, release);
  module.def("mask_patch_embed_cuda", &embed_cuda, release);
  module.def("mask_patch_embed_backward_cuda", &backward_cuda, release);
#endif
}

}  // namespace fastregion
