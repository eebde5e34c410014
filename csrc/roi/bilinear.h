// Where RoI-Align samples and with which weights: the one copy of this arithmetic, used by CPU and
// CUDA, forward and backward. constexpr functions are callable from both worlds.
//
// aligned = true, sampling_ratio = 2: a box [low, high) of one axis is cut into `bins` bins of
// (high - low) / bins, each sampled at 1/4 and 3/4; cell centres lie at integers, hence the -0.5.
// Two samples of two cells make at most four (cell, weight) pairs for a bin. They are the same for
// every position along the other axis, so the operator is separable.
#pragma once

#include <cstdint>

namespace fastregion {

inline constexpr int kTapsPerBin = 4;

// The cells of one axis that one bin reads. Unused entries have weight 0 and cell 0.
template <class Real>
struct AxisTaps {
  int count = 0;
  int64_t cell[kTapsPerBin] = {};
  Real weight[kTapsPerBin] = {};

  constexpr void add(int64_t at, Real amount) {
    if (amount == 0) return;
    for (int k = 0; k < count; ++k) {
      if (cell[k] == at) {
        weight[k] += amount;
        return;
      }
    }
    cell[count] = at;
    weight[count] = amount;
    ++count;
  }
};

template <class Real>
constexpr AxisTaps<Real> axis_taps(Real low, Real high, int64_t bins, int64_t bin, int64_t cells) {
  AxisTaps<Real> taps;
  const Real size = (high - low) / static_cast<Real>(bins);
  const Real start = low - Real(0.5) + static_cast<Real>(bin) * size;
  for (const Real part : {Real(0.25), Real(0.75)}) {
    Real point = start + part * size;
    // Written so that NaN counts as outside; nothing is converted to an integer before this test.
    if (!(point >= -1 && point <= static_cast<Real>(cells))) continue;
    if (point < 0) point = 0;
    const int64_t cell = static_cast<int64_t>(point);
    if (cell >= cells - 1) {  // at or beyond the last centre: the last cell alone
      taps.add(cells - 1, Real(0.5));
      continue;
    }
    const Real fraction = point - static_cast<Real>(cell);
    taps.add(cell, Real(0.5) * (1 - fraction));
    taps.add(cell + 1, Real(0.5) * fraction);
  }
  return taps;
}

}  // namespace fastregion
