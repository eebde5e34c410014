// Bit-packed masks to one byte per pixel, on the device: masks travel to it as bits.
#pragma once

#include <cstdint>

#include "core/device.h"

namespace fastregion {

struct UnpackBitsParams {
  const uint64_t* bits;  // [num_rows, row_words(width)], see bit_rows.h
  uint8_t* mask;         // [num_rows, width], 0 or 1
  int64_t num_rows;      // rows of all masks together
  int64_t width;
};

namespace cuda {
void unpack_bits(const UnpackBitsParams& p, cudaStream_t stream);
}

}  // namespace fastregion
