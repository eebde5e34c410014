#include "core/rows.h"

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
void weighted_sum(Out* out, const std::type_identity_t<Out>* addend, const In* const* rows,
                  const accumulate_t<In>* weights, int64_t count, int64_t length) {
  using Types = RowTypes<Out, In>;
  FASTREGION_SELECT_ISA(weighted_sum<Types>)(out, addend, rows, weights, count, length);
}

#define FASTREGION_INSTANTIATE(Out, In)                                                            \
  template void weighted_sum(Out*, const Out*, const In* const*, const accumulate_t<In>*, int64_t, \
                             int64_t)
FASTREGION_INSTANTIATE(float, float);
FASTREGION_INSTANTIATE(float, Half);
FASTREGION_INSTANTIATE(float, BFloat16);
FASTREGION_INSTANTIATE(Half, float);
FASTREGION_INSTANTIATE(BFloat16, float);
FASTREGION_INSTANTIATE(Half, Half);
FASTREGION_INSTANTIATE(BFloat16, BFloat16);
FASTREGION_INSTANTIATE(double, double);
#undef FASTREGION_INSTANTIATE

}  // namespace fastregion
