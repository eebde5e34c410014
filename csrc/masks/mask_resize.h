// mask_resize: separable resize of bit-packed masks to grey, columns first, then rows.
//
//   row[m, y, j] = value(sum over k of 255 * mask[m, y, b + k] * column weight[j, k])
//   out[m, i, j] = grey(sum over k of row[m, b + k, j] * row weight[i, k])
//   b = first source pixel of the window; sums in the order of k
//
//   fixed point: weights int32 with 22 bits behind the point; value and grey round the sum to
//     an integer and clamp it to 0..255
//   otherwise:   weights and sums double; value rounds to float32, grey does too, then cuts the
//     fraction off and wraps modulo 256
//
//   masks [M, H, row_words(W)] (regions/bit_rows.h)   out [M, h, w]
//   windows [size, 2] int32, first and count, both ascending in their ends
//   weights [size, taps], those past the count are 0; taps is a multiple of 8
#pragma once

#include <cstdint>

#ifdef FASTREGION_WITH_CUDA
#include "core/stream.h"
#endif

namespace fastregion {

struct ResizeAxis {
  const int32_t* windows;
  const void* weights;
  int64_t taps;
};

struct MaskResizeParams {
  bool fixed_point;
  const uint64_t* masks;
  uint8_t* out;
  int64_t num_masks, height, width;
  int64_t out_height, out_width;
  ResizeAxis rows, columns;
};

// The two rules. `Value` is what a row holds between the passes; `kFull` is a pixel inside.
struct FixedPoint {
  using Sum = int32_t;
  using Value = uint8_t;
  static constexpr Sum kFull = 255;
  static constexpr Sum kStart = 1 << 21;  // half
  static constexpr Value value(Sum sum) {
    const Sum rounded = sum >> 22;
    return static_cast<Value>(rounded < 0 ? 0 : rounded > 255 ? 255 : rounded);
  }
  static constexpr uint8_t grey(Sum sum) { return value(sum); }
};

struct Wrapped {
  using Sum = double;
  using Value = float;
  static constexpr Sum kFull = 255;
  static constexpr Sum kStart = 0;
  static constexpr Value value(Sum sum) { return static_cast<Value>(sum); }
  static constexpr uint8_t grey(Sum sum) {
    return static_cast<uint8_t>(static_cast<int32_t>(value(sum)) & 255);
  }
};

namespace cpu {
void mask_resize(const MaskResizeParams& params, int num_threads);
}  // namespace cpu

#ifdef FASTREGION_WITH_CUDA
namespace cuda {
// Bytes of `workspace`: the rows between the passes.
int64_t mask_resize_workspace(const MaskResizeParams& params);
void mask_resize(const MaskResizeParams& params, void* workspace, cudaStream_t stream);
}  // namespace cuda
#endif

}  // namespace fastregion
