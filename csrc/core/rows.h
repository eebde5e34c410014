// Weighted sums of rows, the inner loop that the operators share: channels are the vector lanes.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace fastregion {

//   out[c] = sum over k < count of weights[k] * rows[k][c],   0 <= c < length
//
// Sums in float (double for double) in the order of k, rounded once on store; count 0 gives zeros.
// `out` may be one of the rows. Reads count * length elements, writes length. Instantiated for
// (Out, In) = (float, T) and (T, float) with T in {float, Half, BFloat16}, and (double, double).
template <class Out, class In>
void weighted_sum(Out* out,               // [length]
                  const In* const* rows,  // [count] pointers to [length]
                  const accumulate_t<In>* weights, int64_t count, int64_t length);

}  // namespace fastregion
