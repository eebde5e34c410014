// Binding of the mask operators: pointers and sizes in. Shapes and dtypes are checked in Python,
// where the tensors are; the caller keeps them alive until the call returns. The last argument says
// where to run.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "core/parallel.h"
#include "masks/mask_patch_embed.h"
#include "regions/bit_rows.h"

namespace py = pybind11;

namespace fastregion {

// In files of their own.
void bind_mask_encode(py::module_& module);
void bind_mask_resize(py::module_& module);

namespace {

// Rows of a mask for which a second thread pays.
constexpr int64_t kRowsPerThread = 64;

using Address = std::uintptr_t;

void pack_bits(Address masks, Address words, int64_t num_rows, int64_t width, int num_threads) {
  parallel_for(num_rows, kRowsPerThread, num_threads, [&](int64_t begin, int64_t end) {
    pack_rows(reinterpret_cast<const uint8_t*>(masks) + begin * width, end - begin, width,
              reinterpret_cast<uint64_t*>(words) + begin * row_words(width));
  });
}

void unpack_bits(Address words, Address masks, int64_t num_rows, int64_t width, int num_threads) {
  parallel_for(num_rows, kRowsPerThread, num_threads, [&](int64_t begin, int64_t end) {
    unpack_rows(reinterpret_cast<const uint64_t*>(words) + begin * row_words(width), end - begin,
                width, reinterpret_cast<uint8_t*>(masks) + begin * width);
  });
}

MaskPatchEmbedParams patch_params(int dtype, Address words, int64_t num_tiles, int64_t height,
                                  int64_t width, int64_t channels, int64_t input_channels,
                                  int64_t kernel_size) {
  return {.dtype = static_cast<DType>(dtype),
          .words = reinterpret_cast<const uint64_t*>(words),
          .num_tiles = num_tiles,
          .height = height,
          .width = width,
          .channels = channels,
          .input_channels = input_channels,
          .kernel_size = kernel_size};
}

void mask_patch_embed(int dtype, Address words, Address weight, Address bias, Address add_to,
                      Address out, int64_t num_tiles, int64_t height, int64_t width,
                      int64_t channels, int64_t input_channels, int64_t kernel_size,
                      int num_threads) {
  cpu::mask_patch_embed(
      patch_params(dtype, words, num_tiles, height, width, channels, input_channels, kernel_size),
      reinterpret_cast<const void*>(weight), reinterpret_cast<const void*>(bias),
      reinterpret_cast<const void*>(add_to), reinterpret_cast<void*>(out), num_threads);
}

void mask_patch_embed_backward(int dtype, Address words, Address grad, Address grad_weight,
                               int64_t num_tiles, int64_t height, int64_t width, int64_t channels,
                               int64_t input_channels, int64_t kernel_size, int num_threads) {
  cpu::mask_patch_embed_backward(
      patch_params(dtype, words, num_tiles, height, width, channels, input_channels, kernel_size),
      reinterpret_cast<const void*>(grad), reinterpret_cast<void*>(grad_weight), num_threads);
}

}  // namespace

void bind_masks(py::module_& module) {
  module.doc() = "Mask tiles and mask embeddings; see the headers of csrc/masks.";
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("pack_bits", &pack_bits, release);
  module.def("unpack_bits", &unpack_bits, release);
  module.def("mask_patch_embed", &mask_patch_embed, release);
  module.def("mask_patch_embed_backward", &mask_patch_embed_backward, release);
  bind_mask_encode(module);
  bind_mask_resize(module);
}

}  // namespace fastregion
