// A patch as the shortest sum of rows of a table made from the kernel once:
//
//   pixel row   i * k + j          kernel[i, j, :]
//   corner row  k * k + i * k + j  sum over y >= i, x >= j of kernel[y, x, :]
//
// A mask is the sum of its corner points (mixed second differences, values -2 to 2) times the
// quadrants that begin there, so a patch that an outline crosses costs about 8 rows instead of its
// set pixels; a full patch is the one corner (0, 0); an empty one is nothing. The grey pixels of an
// outline are added one by one. The gradient adds to the same rows with the same weights.
// constexpr functions are callable from CUDA too; those of <bit> are not.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace fastregion {

inline constexpr int64_t kLargestPatch = 64;  // a patch row is one word

// What a grey level stands for, as a tensor of T would hold it: 255 is 1, 0 is `outside`, linear in
// between. Computed in double.
template <class T>
constexpr accumulate_t<T> level_value(int level, double outside) {
  const double value = outside + (1 - outside) * level / 255;
  return to_float(from_float<T>(static_cast<accumulate_t<T>>(value)));
}

// Bit j of word i is pixel (i, j). `inside` are the pixels of value 1, `grey` those that are
// neither 1 nor `outside`.
struct PatchPixels {
  uint64_t inside[kLargestPatch];
  uint64_t grey[kLargestPatch];
};

constexpr int count_bits(uint64_t bits) {
  bits -= bits >> 1 & 0x5555555555555555ull;
  bits = (bits & 0x3333333333333333ull) + (bits >> 2 & 0x3333333333333333ull);
  bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0full;
  return static_cast<int>(bits * 0x0101010101010101ull >> 56);
}

// Place of the lowest bit; bits must not be 0.
constexpr int lowest_bit(uint64_t bits) { return count_bits((bits & (~bits + 1)) - 1); }

enum class PatchWay {
  kCorners,  // the corner points of the inside
  kInside,   // the pixels inside
  kOutside,  // the full patch less the pixels that are neither inside nor grey
};

struct PatchChoice {
  PatchWay way;
  int64_t num_terms;  // grey pixels included
};

constexpr uint64_t patch_row_mask(int64_t k) { return ~uint64_t{0} >> (64 - k); }

// Where a row begins (`rises`) and ends (`falls`) its runs, as first horizontal differences.
struct PatchEdges {
  uint64_t rises = 0, falls = 0;
};

constexpr PatchEdges patch_edges(const uint64_t* inside, int64_t i, int64_t k) {
  if (i < 0) return {};
  const uint64_t left = inside[i] << 1;
  return {inside[i] & ~left, ~inside[i] & left & patch_row_mask(k)};
}

// A place where rises or falls change from one row to the next has a corner: rises and falls of
// one row exclude each other, so the two changes cannot cancel.
constexpr uint64_t corner_places(const uint64_t* inside, int64_t i, int64_t k) {
  const auto [rises, falls] = patch_edges(inside, i, k);
  const auto [rises_above, falls_above] = patch_edges(inside, i - 1, k);
  return (rises ^ rises_above) | (falls ^ falls_above);
}

constexpr PatchChoice choose_way(const PatchPixels& pixels, int64_t k) {
  int64_t inside = 0, grey = 0, corners = 0;
  for (int64_t i = 0; i < k; ++i) {
    inside += count_bits(pixels.inside[i]);
    grey += count_bits(pixels.grey[i]);
    corners += count_bits(corner_places(pixels.inside, i, k));
  }
  const int64_t outside = k * k - inside - grey + 1;
  if (corners <= inside && corners <= outside) return {PatchWay::kCorners, corners + grey};
  if (inside <= outside) return {PatchWay::kInside, inside + grey};
  return {PatchWay::kOutside, outside + grey};
}

// Calls body(row of the table, weight) for the terms of row i of a patch, weights -2 to 2: those of
// value 1 above a background of 0. Under kOutside they are on top of the full patch.
template <class Body>
constexpr void for_terms_of_row(const PatchPixels& pixels, int64_t i, int64_t k, PatchWay way,
                                Body&& body) {
  const auto bit = [](uint64_t word, int place) { return static_cast<int>(word >> place & 1); };
  if (way == PatchWay::kCorners) {
    const auto [rises, falls] = patch_edges(pixels.inside, i, k);
    const auto [rises_above, falls_above] = patch_edges(pixels.inside, i - 1, k);
    for (uint64_t left = corner_places(pixels.inside, i, k); left != 0; left &= left - 1) {
      const int j = lowest_bit(left);
      body(k * k + i * k + j,
           bit(rises, j) - bit(falls, j) - bit(rises_above, j) + bit(falls_above, j));
    }
    return;
  }
  const bool outside = way == PatchWay::kOutside;
  uint64_t left =
      outside ? ~(pixels.inside[i] | pixels.grey[i]) & patch_row_mask(k) : pixels.inside[i];
  for (; left != 0; left &= left - 1) body(i * k + lowest_bit(left), outside ? -1 : 1);
}

// Calls body(row of the table, weight) for every term of a patch above the background:
//   sum over pixels of kernel * (value - outside)
// value(i, j) is asked of grey pixels only.
template <class Real, class Value, class Body>
constexpr void for_each_term(const PatchPixels& pixels, int64_t k, PatchWay way, Real outside,
                             Value&& value, Body&& body) {
  const bool from_full = way == PatchWay::kOutside;
  const Real scale = 1 - outside;
  if (from_full) body(k * k, scale);
  for (int64_t i = 0; i < k; ++i) {
    for_terms_of_row(pixels, i, k, way, [&](int64_t row, int weight) {
      body(row, static_cast<Real>(weight) * scale);
    });
    for (uint64_t left = pixels.grey[i]; left != 0; left &= left - 1) {
      const int j = lowest_bit(left);
      body(i * k + j, value(i, j) - (from_full ? Real{1} : outside));
    }
  }
}

}  // namespace fastregion
