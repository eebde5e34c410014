// Where RoI-Align samples and with which weights: the one copy of this arithmetic, used by CPU and
// CUDA, forward and backward. constexpr functions are callable from both worlds.
//
// Along one axis a box is cut into bins of equal size and every bin is sampled at the centres of
// `samples` equal parts; cell centres lie at integers. The weights of a bin are the same for every
// position along the other axis: RoI-Align is separable.
#pragma once

#include <cstdint>

namespace fastregion {

// One axis of one box.
template <class Real>
struct Axis {
  Real start = 0, bin_size = 0;  // in cells
  int64_t samples = 0;           // in a bin; none of a reversed box that is sampled adaptively
  int64_t cells = 0;             // of the map
};

// The fixed case of roi_replay: 2 samples, box given in cells, half a cell moved to the centres.
inline constexpr int kReplaySamples = 2;
template <class Real>
constexpr Axis<Real> replay_axis(Real low, Real high, int64_t bins, int64_t cells) {
  return {low - Real(0.5), (high - low) / static_cast<Real>(bins), kReplaySamples, cells};
}

// RoI-Align in general. Operations in the order of torchvision's, so that float32 rounds to the
// same sample points and the same adaptive number of samples.
template <class Real>
constexpr Axis<Real> align_axis(Real low, Real high, Real spatial_scale, bool aligned,
                                int64_t sampling_ratio, int64_t bins, int64_t cells) {
  constexpr int64_t kMostSamples = int64_t{1} << 30;  // of a box of absurd size
  const Real offset = aligned ? Real(0.5) : Real(0);
  const Real start = low * spatial_scale - offset;
  Real size = high * spatial_scale - offset - start;
  if (!aligned && size < 1) size = 1;
  const Real bin_size = size / static_cast<Real>(bins);
  if (sampling_ratio > 0) return {start, bin_size, sampling_ratio, cells};
  if (!(bin_size > 0)) return {start, bin_size, 0, cells};  // NaN too
  if (bin_size >= static_cast<Real>(kMostSamples)) return {start, bin_size, kMostSamples, cells};
  const int64_t whole = static_cast<int64_t>(bin_size);
  return {start, bin_size, whole + (static_cast<Real>(whole) < bin_size), cells};
}

// Two neighbouring cells and what they contribute to the bin: bilinear weight / samples.
template <class Real>
struct AxisSample {
  int64_t cell = 0, next = 0;
  Real weight = 0, next_weight = 0;
};

// Sample `number` of a bin. Outside of [-1, cells] nothing is read: weights 0, cell 0.
template <class Real>
constexpr AxisSample<Real> axis_sample(const Axis<Real>& axis, int64_t bin, int64_t number) {
  const Real samples = static_cast<Real>(axis.samples);
  const Real part = (static_cast<Real>(number) + Real(0.5)) * axis.bin_size / samples;
  Real point = axis.start + static_cast<Real>(bin) * axis.bin_size + part;
  // Written so that NaN counts as outside; nothing becomes an integer before this test.
  if (!(point >= -1 && point <= static_cast<Real>(axis.cells))) return {};
  if (point < 0) point = 0;
  const Real share = 1 / samples;
  const int64_t cell = static_cast<int64_t>(point);
  if (cell >= axis.cells - 1) return {axis.cells - 1, axis.cells - 1, share, 0};
  const Real fraction = point - static_cast<Real>(cell);
  return {cell, cell + 1, share * (1 - fraction), share * fraction};
}

struct SampleRange {
  int64_t first = 0, last = 0;
};

// A range with all samples of a bin that can lie on the map. An adaptively sampled box far larger
// than the map has millions of others, and visiting them would take for ever.
template <class Real>
constexpr SampleRange samples_on_map(const Axis<Real>& axis, int64_t bin) {
  if (axis.samples <= 64) return {0, axis.samples};
  const Real step = axis.bin_size / static_cast<Real>(axis.samples);
  if (!(step > 0)) return {0, axis.samples};
  const Real before = -1 - (axis.start + static_cast<Real>(bin) * axis.bin_size);
  const Real samples = static_cast<Real>(axis.samples);
  const Real margin = Real(1e-5) * samples + 2;  // rounding of the sample points
  const Real first = before / step - margin;
  const Real last = (before + 1 + static_cast<Real>(axis.cells)) / step + margin;
  SampleRange range;  // NaN leaves it empty
  if (first > 0) range.first = first < samples ? static_cast<int64_t>(first) : axis.samples;
  if (last > 0) range.last = last < samples ? static_cast<int64_t>(last) : axis.samples;
  return range;
}

// Weight of one cell in a bin.
template <class Real>
constexpr Real axis_weight(const Axis<Real>& axis, int64_t bin, int64_t cell) {
  Real weight = 0;
  const SampleRange range = samples_on_map(axis, bin);
  for (int64_t number = range.first; number < range.last; ++number) {
    const AxisSample<Real> sample = axis_sample(axis, bin, number);
    if (sample.cell == cell) weight += sample.weight;
    if (sample.next == cell) weight += sample.next_weight;
  }
  return weight;
}

}  // namespace fastregion
