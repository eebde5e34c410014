// unpack_bits: bit-packed masks to one byte per pixel.
//
//   mask[row, x] = bits[row, x / 64] >> (x % 64) & 1
//
//   bits [num_rows, row_words] uint64   mask [num_rows, width] uint8   num_rows = masks * height
//
// Traffic: width / 8 bytes read and width written per row, the minimum. Bound by the stores.
// Deterministic: each byte is written once.
#include "regions/bit_rows.h"
#include "regions/unpack_bits.h"

namespace fastregion::cuda {
namespace {

constexpr int kThreads = 256;   // no shared memory, few registers: occupancy is not at stake
constexpr int64_t kGroup = 16;  // pixels per thread: one 16-byte store, a quarter of a word
static_assert(kWordBits % kGroup == 0, "a group must not straddle two words");

// Bits 0..3 of `nibble` to the lowest bits of four bytes: the product puts copies of the nibble at
// bits 0, 7, 14 and 21, so that bit i of copy i lands on bit 8 i.
__device__ __forceinline__ uint32_t spread(uint32_t nibble) {
  return nibble * 0x00204081u & 0x01010101u;
}

// One thread per 16 pixels of a row, for widths that are a multiple of 16: neighbouring threads
// store neighbouring 16-byte words.
__global__ void unpack_groups_kernel(const uint64_t* __restrict__ bits,  // [num_rows, row_words]
                                     uint4* __restrict__ mask,           // [num_rows, row_groups]
                                     int64_t num_groups, int64_t row_groups, int64_t words) {
  const int64_t group = int64_t{blockIdx.x} * kThreads + static_cast<int64_t>(threadIdx.x);
  if (group >= num_groups) return;
  const int64_t row = group / row_groups;
  const int64_t first_pixel = (group - row * row_groups) * kGroup;
  const uint64_t word = bits[row * words + first_pixel / kWordBits];
  const uint32_t pixels = static_cast<uint32_t>(word >> (first_pixel % kWordBits)) & 0xffffu;
  mask[group] = make_uint4(spread(pixels & 0xfu), spread(pixels >> 4 & 0xfu),
                           spread(pixels >> 8 & 0xfu), spread(pixels >> 12));
}

// One thread per pixel, for all other widths: rows do not start on 16-byte boundaries.
__global__ void unpack_pixels_kernel(const uint64_t* __restrict__ bits,  // [num_rows, row_words]
                                     uint8_t* __restrict__ mask,         // [num_rows, width]
                                     int64_t num_pixels, int64_t width, int64_t words) {
  const int64_t pixel = int64_t{blockIdx.x} * kThreads + static_cast<int64_t>(threadIdx.x);
  if (pixel >= num_pixels) return;
  const int64_t row = pixel / width;
  const int64_t x = pixel - row * width;
  mask[pixel] = static_cast<uint8_t>(bits[row * words + x / kWordBits] >> (x % kWordBits) & 1u);
}

}  // namespace

void unpack_bits(const UnpackBitsParams& p, cudaStream_t stream) {
  const int64_t num_pixels = p.num_rows * p.width;
  if (num_pixels == 0) return;  // an empty grid is a launch error
  const bool aligned = reinterpret_cast<uintptr_t>(p.mask) % sizeof(uint4) == 0;
  if (p.width % kGroup == 0 && aligned) {
    const int64_t num_groups = num_pixels / kGroup;
    launch("unpack_bits", unpack_groups_kernel, one_thread_each(num_groups, kThreads, stream),
           p.bits, reinterpret_cast<uint4*>(p.mask), num_groups, p.width / kGroup,
           row_words(p.width));
  } else {
    launch("unpack_bits", unpack_pixels_kernel, one_thread_each(num_pixels, kThreads, stream),
           p.bits, p.mask, num_pixels, p.width, row_words(p.width));
  }
}

}  // namespace fastregion::cuda
