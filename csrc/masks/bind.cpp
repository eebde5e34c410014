// Binding of the mask operators; those with a file of their own are called from here.
#include "core/bind.h"

#include "core/parallel.h"
#include "regions/bit_rows.h"
#ifdef FASTREGION_WITH_CUDA
#include "regions/pack_bits.h"
#include "regions/unpack_bits.h"
#endif

namespace fastregion {

// In files of their own.
void bind_mask_encode(py::module_& module);
void bind_mask_resize(py::module_& module);
void bind_mask_patch_embed(py::module_& module);

namespace {

// Rows of a mask for which a second thread pays.
constexpr int64_t kRowsPerThread = 64;

void pack_bits_cpu(Address masks, Address words, int64_t num_rows, int64_t width, int num_threads) {
  parallel_for(num_rows, kRowsPerThread, num_threads, [&](int64_t begin, int64_t end) {
    pack_bits(reinterpret_cast<const uint8_t*>(masks) + begin * width, end - begin, width,
              reinterpret_cast<uint64_t*>(words) + begin * row_words(width));
  });
}

void unpack_bits_cpu(Address words, Address masks, int64_t num_rows, int64_t width,
                     int num_threads) {
  parallel_for(num_rows, kRowsPerThread, num_threads, [&](int64_t begin, int64_t end) {
    unpack_bits(reinterpret_cast<const uint64_t*>(words) + begin * row_words(width), end - begin,
                width, reinterpret_cast<uint8_t*>(masks) + begin * width);
  });
}

#ifdef FASTREGION_WITH_CUDA
void pack_bits_cuda(Address masks, Address words, int64_t num_rows, int64_t width, int device,
                    Address stream) {
  const DeviceGuard guard(device);
  cuda::pack_bits({.mask = reinterpret_cast<const uint8_t*>(masks),
                   .bits = reinterpret_cast<uint64_t*>(words),
                   .num_rows = num_rows,
                   .width = width},
                  reinterpret_cast<cudaStream_t>(stream));
}

void unpack_bits_cuda(Address words, Address masks, int64_t num_rows, int64_t width, int device,
                      Address stream) {
  const DeviceGuard guard(device);
  cuda::unpack_bits({.bits = reinterpret_cast<const uint64_t*>(words),
                     .mask = reinterpret_cast<uint8_t*>(masks),
                     .num_rows = num_rows,
                     .width = width},
                    reinterpret_cast<cudaStream_t>(stream));
}
#endif

}  // namespace

void bind_masks(py::module_& module) {
  module.doc() = "Mask tiles and mask embeddings; see the headers of csrc/masks.";
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("pack_bits", &pack_bits_cpu, release);
  module.def("unpack_bits", &unpack_bits_cpu, release);
  bind_mask_encode(module);
  bind_mask_resize(module);
  bind_mask_patch_embed(module);
#ifdef FASTREGION_WITH_CUDA
  module.def("pack_bits_cuda", &pack_bits_cuda, release);
  module.def("unpack_bits_cuda", &unpack_bits_cuda, release);
#endif
}

}  // namespace fastregion
