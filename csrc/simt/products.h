// The instructions of core/mma.h by themselves: one product of one tile by one warp.
#pragma once

#include "core/dtype.h"

namespace fastregion::simt {

// A mistake on the way from shared memory to the product; the fragments are those of core/mma.h.
enum class Swap {
  kNothing,
  kHalvesOfA,  // a1 and a2
  kHalvesOfB,  // b0 and b1
  kLanesOfB,   // lane 8 q + i points at row 7 - i
};

// c += a b, with a [16, 16], c [16, 8] and b [16, 8] as its rows or as its columns, [8, 16]; all
// contiguous, float16 or bfloat16 at multiples of 16 bytes, c float32.
void tile_product(DType dtype, const void* a, const void* b, float* c, bool b_by_rows, Swap swap);

}  // namespace fastregion::simt
