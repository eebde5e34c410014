// pack_bits: one byte per pixel to bit-packed masks.
//
//   bit x % 64 of bits[row, x / 64] = mask[row, x] != 0
//
//   mask [num_rows, width] uint8   bits [num_rows, row_words] uint64   num_rows = masks * height
//
// Traffic: width bytes read and width / 8 written per row, the minimum. Bound by the loads.
// Deterministic: each word is written once.
#include "regions/bit_rows.h"
#include "regions/pack_bits.h"

namespace fastregion::cuda {
namespace {

constexpr int kThreads = 256;   // no shared memory, few registers: occupancy is not at stake
constexpr int64_t kGroup = 16;  // pixels per load where rows are aligned

// The lowest bits of four bytes to bits 0..3, any value but 0 counting as 1: a byte's bits are
// folded onto its lowest, then a product brings the four together on top.
__device__ __forceinline__ uint32_t gather(uint32_t bytes) {
  bytes |= bytes >> 4 & 0x0f0f0f0fu;
  bytes |= bytes >> 2 & 0x3f3f3f3fu;
  bytes |= bytes >> 1 & 0x7f7f7f7fu;
  return (bytes & 0x01010101u) * 0x10204080u >> 28;
}

// One thread per word: its loads lie side by side, 64 bytes in two sectors, so that what a warp
// fetches is used in full.
template <bool kAligned>
__global__ void pack_words_kernel(const uint8_t* __restrict__ mask,  // [num_rows, width]
                                  uint64_t* __restrict__ bits,       // [num_rows, row_words]
                                  int64_t num_words, int64_t words, int64_t width) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + static_cast<int64_t>(threadIdx.x);
  if (index >= num_words) return;
  const int64_t row = index / words;
  const int64_t first = (index - row * words) * kWordBits;
  const int64_t count = width - first < kWordBits ? width - first : kWordBits;
  const uint8_t* from = mask + row * width + first;
  uint64_t word = 0;
  if constexpr (kAligned) {
    for (int64_t x = 0; x < count; x += kGroup) {
      const uint4 group = *reinterpret_cast<const uint4*>(from + x);
      const uint32_t pixels =
          gather(group.x) | gather(group.y) << 4 | gather(group.z) << 8 | gather(group.w) << 12;
      word |= uint64_t{pixels} << x;
    }
  } else {
    for (int64_t x = 0; x < count; ++x) word |= uint64_t{from[x] != 0} << x;
  }
  bits[index] = word;
}

}  // namespace

void pack_bits(const PackBitsParams& p, cudaStream_t stream) {
  const int64_t words = row_words(p.width);
  const int64_t num_words = p.num_rows * words;
  if (num_words == 0) return;  // an empty grid is a launch error
  const bool aligned =
      p.width % kGroup == 0 && reinterpret_cast<uintptr_t>(p.mask) % sizeof(uint4) == 0;
  launch("pack_bits", aligned ? pack_words_kernel<true> : pack_words_kernel<false>,
         one_thread_each(num_words, kThreads, stream), p.mask, p.bits, num_words, words, p.width);
}

}  // namespace fastregion::cuda
