// Weighted sums of rows, the inner loop that the operators share: channels are the vector lanes.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/dtype.h"

namespace fastregion {

//   out[c] = addend[c] + sum over k < count of weights[k] * rows[k][c],   0 <= c < length
//
// Sums in float (double for double) in the order written, rounded once on store. `addend` may be
// null (0) and may be `out`. Reads (count + 1) * length elements, writes length. Instantiated for
// Out and In in {float, Half, BFloat16} with at least one float or both equal, and for doubles.
template <class Out, class In>
void weighted_sum(Out* out,                                 // [length]
                  const std::type_identity_t<Out>* addend,  // [length] or null
                  const In* const* rows,                    // [count] pointers to [length]
                  const accumulate_t<In>* weights, int64_t count, int64_t length);

}  // namespace fastregion
