// A binary patch as the shortest sum of rows of a table made from the kernel once:
//
//   pixel row   i * k + j          kernel[i, j, :]
//   corner row  k * k + i * k + j  sum over y >= i, x >= j of kernel[y, x, :]
//
// A mask is the sum of its corner points (mixed second differences, values -2 to 2) times the
// quadrants that begin there, so a patch that an outline crosses costs about 8 rows instead of its
// set pixels; a full patch is the one corner (0, 0); an empty one is nothing. The gradient adds to
// the same rows with the same weights.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace fastregion {

template <class Real>
class PatchTerms {
 public:
  std::vector<int64_t> rows;  // of the table
  std::vector<Real> weights;

  // pixels [k]: bit j of pixels[i] is pixel (i, j) of the patch.
  void set(const uint64_t* pixels, int64_t k) {
    rows.clear();
    weights.clear();
    int64_t set_pixels = 0;
    int64_t corners = 0;
    for (int64_t i = 0; i < k; ++i) {
      set_pixels += std::popcount(pixels[i]);
      corners += std::popcount(corner_places(pixels, i, k));
    }
    const int64_t unset_pixels = k * k - set_pixels;
    if (corners <= set_pixels && corners <= unset_pixels + 1) {
      add_corners(pixels, k);
    } else if (set_pixels <= unset_pixels + 1) {
      add_pixels(pixels, k, 1);
    } else {
      add(k * k, 1);
      add_pixels(pixels, k, -1);
    }
  }

 private:
  // Where a row begins (`rises`) and ends (`falls`) its runs, as first horizontal differences.
  struct Edges {
    uint64_t rises = 0, falls = 0;
  };

  static Edges edges(const uint64_t* pixels, int64_t i, int64_t k) {
    if (i < 0) return {};
    const uint64_t left = pixels[i] << 1;
    return {pixels[i] & ~left, ~pixels[i] & left & row_mask(k)};
  }

  // A place where rises or falls change from one row to the next has a corner: rises and falls of
  // one row exclude each other, so the two changes cannot cancel.
  static uint64_t corner_places(const uint64_t* pixels, int64_t i, int64_t k) {
    const auto [rises, falls] = edges(pixels, i, k);
    const auto [rises_above, falls_above] = edges(pixels, i - 1, k);
    return (rises ^ rises_above) | (falls ^ falls_above);
  }

  static uint64_t row_mask(int64_t k) { return ~uint64_t{0} >> (64 - k); }

  static int bit(uint64_t word, int place) { return static_cast<int>(word >> place & 1); }

  void add(int64_t row, Real weight) {
    rows.push_back(row);
    weights.push_back(weight);
  }

  void add_corners(const uint64_t* pixels, int64_t k) {
    for (int64_t i = 0; i < k; ++i) {
      const auto [rises, falls] = edges(pixels, i, k);
      const auto [rises_above, falls_above] = edges(pixels, i - 1, k);
      for (uint64_t left = corner_places(pixels, i, k); left != 0; left &= left - 1) {
        const int j = std::countr_zero(left);
        const int value = bit(rises, j) - bit(falls, j) - bit(rises_above, j) + bit(falls_above, j);
        add(k * k + i * k + j, static_cast<Real>(value));
      }
    }
  }

  // The set pixels with weight 1, or the unset ones with weight -1.
  void add_pixels(const uint64_t* pixels, int64_t k, int sign) {
    for (int64_t i = 0; i < k; ++i) {
      for (uint64_t left = sign > 0 ? pixels[i] : ~pixels[i] & row_mask(k); left != 0;
           left &= left - 1) {
        add(i * k + std::countr_zero(left), static_cast<Real>(sign));
      }
    }
  }
};

}  // namespace fastregion
