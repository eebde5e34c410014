// Where RoI-Align samples and with which weights: the one copy of this arithmetic, used by CPU and
// CUDA, forward and backward. constexpr functions are callable from both worlds.
//
// aligned = true, sampling_ratio = 2: a box [low, high) of one axis is cut into `bins` bins of
// (high - low) / bins, each sampled at 1/4 and 3/4; cell centres lie at integers, hence the -0.5.
// The weights of a bin are the same for every position along the other axis: it is separable.
#pragma once

#include <cstdint>

namespace fastregion {

inline constexpr int kSamplesPerBin = 2;                // along one axis
inline constexpr int kTapsPerBin = 2 * kSamplesPerBin;  // cells read by the samples

// Two neighbouring cells and what they contribute to the bin: bilinear weight / kSamplesPerBin.
template <class Real>
struct AxisSample {
  int64_t cell = 0, next = 0;
  Real weight = 0, next_weight = 0;
};

// Sample `number` (0 or 1) of a bin. Outside of [-1, cells] nothing is read: weights 0, cell 0.
template <class Real>
constexpr AxisSample<Real> axis_sample(Real low, Real high, int64_t bins, int64_t bin, int number,
                                       int64_t cells) {
  constexpr Real kShare = Real(1) / kSamplesPerBin;
  const Real size = (high - low) / static_cast<Real>(bins);
  const Real part = (static_cast<Real>(number) + Real(0.5)) * kShare;
  Real point = low - Real(0.5) + static_cast<Real>(bin) * size + part * size;
  // Written so that NaN counts as outside; nothing becomes an integer before this test.
  if (!(point >= -1 && point <= static_cast<Real>(cells))) return {};
  if (point < 0) point = 0;
  const int64_t cell = static_cast<int64_t>(point);
  if (cell >= cells - 1) return {cells - 1, cells - 1, kShare, 0};  // at or past the last centre
  const Real fraction = point - static_cast<Real>(cell);
  return {cell, cell + 1, kShare * (1 - fraction), kShare * fraction};
}

// Weight of one cell in a bin.
template <class Real>
constexpr Real axis_weight(Real low, Real high, int64_t bins, int64_t bin, int64_t cells,
                           int64_t cell) {
  Real weight = 0;
  for (int number = 0; number < kSamplesPerBin; ++number) {
    const AxisSample<Real> sample = axis_sample(low, high, bins, bin, number, cells);
    if (sample.cell == cell) weight += sample.weight;
    if (sample.next == cell) weight += sample.next_weight;
  }
  return weight;
}

// The distinct cells that a bin reads, with their weights.
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
  for (int number = 0; number < kSamplesPerBin; ++number) {
    const AxisSample<Real> sample = axis_sample(low, high, bins, bin, number, cells);
    taps.add(sample.cell, sample.weight);
    taps.add(sample.next, sample.next_weight);
  }
  return taps;
}

}  // namespace fastregion
