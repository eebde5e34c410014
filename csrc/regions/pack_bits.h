// One byte per pixel to bit-packed masks, on the device.
#pragma once

#include <cstdint>

#include "core/device.h"

namespace fastregion {

struct PackBitsParams {
  const uint8_t* mask;  // [num_rows, width], any value but 0 is inside
  uint64_t* bits;       // [num_rows, row_words(width)], see bit_rows.h
  int64_t num_rows;     // rows of all masks together
  int64_t width;
};

namespace cuda {
void pack_bits(const PackBitsParams& p, cudaStream_t stream);
}

}  // namespace fastregion
