#include "core/rows.h"

#include <type_traits>

#include "core/isa.h"

namespace fastregion {

// Two element types as one, because a comma would end the argument of FASTREGION_SELECT_ISA.
template <class OutType, class InType>
struct RowTypes {
  using Out = OutType;
  using In = InType;
  using Acc = accumulate_t<InType>;
};

}  // namespace fastregion

#define FASTREGION_ISA_SOURCE "core/rows.inc"
#include "core/for_each_isa.h"

namespace fastregion {

template <class Out, class In>
void weighted_sum(Out* out, const In* const* rows, const accumulate_t<In>* weights, int64_t count,
                  int64_t length) {
  using Types = RowTypes<Out, In>;
  FASTREGION_SELECT_ISA(weighted_sum<Types>)(out, rows, weights, count, length);
}

template void weighted_sum(float*, const float* const*, const float*, int64_t, int64_t);
template void weighted_sum(double*, const double* const*, const double*, int64_t, int64_t);
template void weighted_sum(float*, const Half* const*, const float*, int64_t, int64_t);
template void weighted_sum(float*, const BFloat16* const*, const float*, int64_t, int64_t);
template void weighted_sum(Half*, const float* const*, const float*, int64_t, int64_t);
template void weighted_sum(BFloat16*, const float* const*, const float*, int64_t, int64_t);

}  // namespace fastregion
