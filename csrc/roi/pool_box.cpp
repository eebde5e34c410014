#include "roi/pool_box.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/isa.h"

namespace fastregion::cpu {

// Two element types as one, because a comma would end the argument of FASTREGION_SELECT_ISA.
template <class OutType, class InType>
struct PoolTypes {
  using Out = OutType;
  using In = InType;
  using Acc = accumulate_t<InType>;
};

// The taps as plain pointers: see core/isa.h on inline functions in code for newer machines.
template <class Real>
struct AxisView {
  const int64_t* first;
  const int64_t* cell;
  const Real* weight;
  int64_t bins;

  explicit AxisView(const AxisTaps<Real>& taps)
      : first(taps.first.data()),
        cell(taps.cell.data()),
        weight(taps.weight.data()),
        bins(taps.bins()) {}
};

template <class Real>
struct BoxView {
  AxisView<Real> rows, columns, bins_of_slot;
  const int64_t* slots;
  int64_t num_slots;

  explicit BoxView(const BoxTaps<Real>& taps)
      : rows(taps.rows),
        columns(taps.columns),
        bins_of_slot(taps.bins_of_slot),
        slots(taps.slots.data()),
        num_slots(std::ssize(taps.slots)) {}
};

}  // namespace fastregion::cpu

#define FASTREGION_ISA_SOURCE "roi/pool_box.inc"
#include "core/for_each_isa.h"

namespace fastregion::cpu {

template <class Out, class In>
void pool_box(const BoxTaps<accumulate_t<In>>& taps, const In* map, accumulate_t<In>* row,
              Out* bins, int64_t bin_stride, int64_t length, bool stream) {
  using Types = PoolTypes<Out, In>;
  FASTREGION_SELECT_ISA(pool_box<Types>)(BoxView(taps), map, row, bins, bin_stride, length, stream);
}

template <class In>
void spread_box(const BoxTaps<accumulate_t<In>>& taps, const In* bins, int64_t bin_stride,
                accumulate_t<In>* map, int64_t length) {
  using Types = PoolTypes<accumulate_t<In>, In>;
  FASTREGION_SELECT_ISA(spread_box<Types>)(BoxView(taps), bins, bin_stride, map, length);
}

void finish_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

template <class T>
void planes_to_rows(const T* planes, int64_t stride, accumulate_t<T>* rows, int64_t row_stride,
                    int64_t channels, int64_t count) {
  using Types = PoolTypes<accumulate_t<T>, T>;
  FASTREGION_SELECT_ISA(transpose<Types>)(planes, stride, rows, row_stride, channels, count);
}

template <class T>
void rows_to_planes(const accumulate_t<T>* rows, int64_t row_stride, T* planes, int64_t stride,
                    int64_t channels, int64_t count) {
  using Types = PoolTypes<T, accumulate_t<T>>;
  FASTREGION_SELECT_ISA(transpose<Types>)(rows, row_stride, planes, stride, count, channels);
}

#define FASTREGION_INSTANTIATE_POOL(Out, In)                                                   \
  template void pool_box(const BoxTaps<accumulate_t<In>>&, const In*, accumulate_t<In>*, Out*, \
                         int64_t, int64_t, bool);
#define FASTREGION_INSTANTIATE(T)                                                                \
  FASTREGION_INSTANTIATE_POOL(T, T)                                                              \
  template void spread_box(const BoxTaps<accumulate_t<T>>&, const T*, int64_t, accumulate_t<T>*, \
                           int64_t);                                                             \
  template void planes_to_rows(const T*, int64_t, accumulate_t<T>*, int64_t, int64_t, int64_t);  \
  template void rows_to_planes(const accumulate_t<T>*, int64_t, T*, int64_t, int64_t, int64_t);
FASTREGION_INSTANTIATE(float)
FASTREGION_INSTANTIATE(double)
FASTREGION_INSTANTIATE(Half)
FASTREGION_INSTANTIATE(BFloat16)
FASTREGION_INSTANTIATE_POOL(float, Half)
FASTREGION_INSTANTIATE_POOL(float, BFloat16)
FASTREGION_INSTANTIATE_POOL(Half, float)
FASTREGION_INSTANTIATE_POOL(BFloat16, float)
#undef FASTREGION_INSTANTIATE
#undef FASTREGION_INSTANTIATE_POOL

}  // namespace fastregion::cpu
