// One row of positions of mask_encode at a time: pixels, both rows of convolutions, features.
//
// Lanes are positions. A position spans 4 pixels, so pixel columns are split by their number
// modulo 4, and the columns of h modulo 2; then every tap of a convolution reads a contiguous
// array:
//
//   h(2x)     reads pixels 4x - 1, 4x, 4x + 1     = phase 3 at x - 1, phases 0 and 1 at x
//   h(2x + 1) reads pixels 4x + 1, 4x + 2, 4x + 3 = phases 1, 2, 3 at x
//   f(x)      reads h 2x - 1, 2x, 2x + 1          = odd h at x - 1, even and odd h at x
//
// Position -1 is part of every array: it holds the padding, or what a span that begins inside
// needs from its left. Arrays are computed in whole vectors; what lies past the span is finite.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "core/rows.h"
#include "core/sizes.h"
#include "masks/mask_encode.h"

namespace fastregion {

template <class Acc>
class FeatureRows {
 public:
  static constexpr int kTaps = 3;       // of a convolution, along each axis
  static constexpr int kPixelRows = 7;  // 4y - 3 to 4y + 3
  static constexpr int kPhases = 4;

  template <class T>
  FeatureRows(const MaskEncodeParams& p, TypeTag<T>)
      : p_(p),
        columns_(quarter_size(p.width)),
        stride_(round_up(columns_ + 1, kLanes) + 2 * kLanes),
        conv1_weight_(widened<T>(p.conv1_weight, p.hidden * kTaps * kTaps)),
        conv1_bias_(widened<T>(p.conv1_bias, p.hidden)),
        conv2_weight_(widened<T>(p.conv2_weight, p.tokens * p.hidden * kTaps * kTaps)),
        conv2_bias_(widened<T>(p.conv2_bias, p.tokens)),
        pixels_(static_cast<size_t>(kPixelRows * kPhases * stride_)),
        hidden_(static_cast<size_t>(kTaps * p.hidden * 2 * stride_)),
        zeros_(static_cast<size_t>(stride_)),
        features_(static_cast<size_t>(p.tokens * stride_)),
        taps_(static_cast<size_t>(std::max<int64_t>(p.hidden, 1) * kTaps * kTaps)) {}

  int64_t rows() const { return quarter_size(p_.height); }
  int64_t columns() const { return columns_; }
  const std::vector<Acc>& conv2_weight() const { return conv2_weight_; }

  // Computes row y of the features of a tile, positions [begin, end).
  void set_row(const uint8_t* tile, int64_t y, int64_t begin, int64_t end) {
    for (int64_t i = 0; i < kPixelRows; ++i) load_pixels(tile, 4 * y - 3 + i, i, begin, end);
    for (int64_t i = 0; i < kTaps; ++i) {
      if (has_hidden_row(y, i)) convolve_pixels(i, begin, end);
    }
    const int64_t length = round_up(end - begin, kLanes);
    for (int64_t m = 0; m < p_.hidden; ++m) {
      for (int64_t i = 0; i < kTaps; ++i) {
        for (int64_t j = 0; j < kTaps; ++j) {
          taps_[static_cast<size_t>((m * kTaps + i) * kTaps + j)] = hidden_tap(y, m, i, j) + begin;
        }
      }
    }
    for (int64_t n = 0; n < p_.tokens; ++n) {
      Acc* out = array(features_, n) + begin;
      sum_taps(out, conv2_bias_[static_cast<size_t>(n)],
               conv2_weight_.data() + n * p_.hidden * kTaps * kTaps, p_.hidden * kTaps * kTaps,
               length);
    }
  }

  // Features [columns] of token n; valid on the span of the last set_row.
  const Acc* features(int64_t n) const { return array(features_, n); }

  // Whether row 2y - 1 + i of h exists; the others are padding.
  bool has_hidden_row(int64_t y, int64_t i) const {
    const int64_t row = 2 * y - 1 + i;
    return row >= 0 && row < half_size(p_.height);
  }

  // What f(x) reads of h[m] at tap (i, j), as an array over x.
  const Acc* hidden_tap(int64_t y, int64_t m, int64_t i, int64_t j) const {
    if (!has_hidden_row(y, i)) return zeros_.data() + kLanes;
    return j == 1 ? hidden(m, i, 0) : hidden(m, i, 1) + (j == 0 ? -1 : 0);
  }

  // h[m] of tap row i: columns 2x (odd = 0) or 2x + 1 (odd = 1), as an array over x.
  const Acc* hidden(int64_t m, int64_t i, int64_t odd) const {
    return array(hidden_, (i * p_.hidden + m) * 2 + odd);
  }

  // What h(2x + odd) of tap row i reads of the pixels at tap (k, j), as an array over x.
  const Acc* pixel_tap(int64_t i, int64_t odd, int64_t k, int64_t j) const {
    const int64_t column = 2 * odd - 1 + j;  // of the pixel, from 4x
    const int64_t row = 2 * i + k;
    return column < 0 ? array(pixels_, row * kPhases + 3) - 1
                      : array(pixels_, row * kPhases + column);
  }

 private:
  static constexpr int64_t kLanes = 16;  // the widest vector of floats

  template <class T>
  static std::vector<Acc> widened(const void* values, int64_t count) {
    const T* from = static_cast<const T*>(values);
    std::vector<Acc> to(static_cast<size_t>(count));
    std::transform(from, from + count, to.begin(), [](T value) { return to_float(value); });
    return to;
  }

  // Array `number` of a buffer; index -1 is inside of it.
  Acc* array(std::vector<Acc>& buffer, int64_t number) const {
    return buffer.data() + number * stride_ + kLanes;
  }
  const Acc* array(const std::vector<Acc>& buffer, int64_t number) const {
    return buffer.data() + number * stride_ + kLanes;
  }

  void load_pixels(const uint8_t* tile, int64_t row, int64_t i, int64_t begin, int64_t end) {
    std::array<Acc*, kPhases> phase;
    for (int k = 0; k < kPhases; ++k)
      phase[static_cast<size_t>(k)] = array(pixels_, i * kPhases + k);
    const bool outside = row < 0 || row >= p_.height;
    const auto pixel = [&](int64_t x, int64_t k) {
      const int64_t column = 4 * x + k;
      if (outside || column < 0 || column >= p_.width) return Acc{0};
      return scale_ * static_cast<Acc>(tile[row * p_.width + column]);
    };
    // The first and the last position may reach past the tile.
    for (const int64_t x : {begin - 1, end - 1}) {
      for (int64_t k = 0; k < kPhases; ++k) phase[static_cast<size_t>(k)][x] = pixel(x, k);
    }
    if (outside) {
      for (Acc* values : phase) std::fill(values + begin, values + end, Acc{0});
      return;
    }
    const uint8_t* from = tile + row * p_.width;
    for (int64_t x = begin; x < end - 1; ++x) {
      phase[0][x] = scale_ * static_cast<Acc>(from[4 * x]);
      phase[1][x] = scale_ * static_cast<Acc>(from[4 * x + 1]);
      phase[2][x] = scale_ * static_cast<Acc>(from[4 * x + 2]);
      phase[3][x] = scale_ * static_cast<Acc>(from[4 * x + 3]);
    }
  }

  void convolve_pixels(int64_t i, int64_t begin, int64_t end) {
    const int64_t length = round_up(end - begin + 1, kLanes);
    for (int64_t m = 0; m < p_.hidden; ++m) {
      for (int64_t odd = 0; odd < 2; ++odd) {
        // Even columns begin at the span, odd ones a position before it.
        const int64_t first = begin - odd;
        for (int64_t k = 0; k < kTaps; ++k) {
          for (int64_t j = 0; j < kTaps; ++j) {
            taps_[static_cast<size_t>(k * kTaps + j)] = pixel_tap(i, odd, k, j) + first;
          }
        }
        Acc* out = array(hidden_, (i * p_.hidden + m) * 2 + odd);
        sum_taps(out + first, conv1_bias_[static_cast<size_t>(m)],
                 conv1_weight_.data() + m * kTaps * kTaps, kTaps * kTaps, length);
        if (odd == 1 && begin == 0) out[-1] = 0;  // padding
        if (odd == 1 && end == columns_ && half_size(p_.width) % 2 == 1) out[end - 1] = 0;
      }
    }
  }

  // out = relu(bias + sum of weights * taps_)
  void sum_taps(Acc* out, Acc bias, const Acc* weights, int64_t count, int64_t length) {
    std::fill_n(out, length, bias);
    weighted_sum(out, out, taps_.data(), weights, count, length);
    for (int64_t x = 0; x < length; ++x) out[x] = out[x] < 0 ? Acc{0} : out[x];  // NaN stays
  }

  const MaskEncodeParams& p_;
  int64_t columns_, stride_;
  Acc scale_ = static_cast<Acc>(p_.scale);
  std::vector<Acc> conv1_weight_, conv1_bias_, conv2_weight_, conv2_bias_;
  std::vector<Acc> pixels_;    // [kPixelRows, kPhases, stride]
  std::vector<Acc> hidden_;    // [kTaps, M, 2, stride]
  std::vector<Acc> zeros_;     // [stride]
  std::vector<Acc> features_;  // [N, stride]
  std::vector<const Acc*> taps_;
};

}  // namespace fastregion
