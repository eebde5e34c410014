// A mask tile of mask_encode as a base plus entries, on the CPU.
//
// The base is the empty or the full tile, whichever leaves fewer entries; an entry is a position
// and how far the features are from the base's there. Which positions may differ is seen from
// blocks of 4 x 4 pixels, so only those are convolved, a row of them at a time (feature_rows.h).
// A base is itself a constant plus entries along its border, where the convolutions are padded.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "masks/feature_rows.h"
#include "masks/mask_encode.h"

namespace fastregion::cpu {

inline constexpr int kBases = 2;  // empty and full

// For every position, bit b of its byte is set unless all its pixels (and a few more) equal base b.
class Outline {
 public:
  Outline(const MaskEncodeParams& p, const uint8_t* tile)
      : rows_(quarter_size(p.height)),
        columns_(quarter_size(p.width)),
        touched_(static_cast<size_t>(rows_ * columns_)) {
    const uint32_t full = static_cast<uint32_t>(p.full) * 0x01010101u;
    std::vector<uint8_t> above(static_cast<size_t>(columns_)), blocks(above.size());
    for (int64_t y = 0; y < rows_; ++y) {
      mark_blocks(p, tile, y, full, blocks.data());
      // A position looks at its own block and those above, to the left and between.
      uint8_t* row = touched_.data() + y * columns_;
      for (size_t x = 0; x < blocks.size(); ++x) row[x] = blocks[x] | above[x];
      for (int64_t x = columns_ - 1; x > 0; --x) row[x] |= row[x - 1];
      for (int64_t x = 0; x < columns_; ++x) {
        count_[0] += row[x] & 1;
        count_[1] += row[x] >> 1;
      }
      above.swap(blocks);
    }
  }

  int base() const { return count_[1] < count_[0] ? 1 : 0; }
  int64_t count() const { return count_[base()]; }

  bool touched(int64_t y, int64_t x) const {
    return (touched_[static_cast<size_t>(y * columns_ + x)] >> base() & 1) != 0;
  }

 private:
  static void mark_blocks(const MaskEncodeParams& p, const uint8_t* tile, int64_t y, uint32_t full,
                          uint8_t* blocks) {
    const int64_t whole = p.width / 4;
    const int64_t end = std::min(4 * y + 4, p.height);
    std::fill_n(blocks, quarter_size(p.width), uint8_t{0});
    for (int64_t i = 4 * y; i < end; ++i) {
      const uint8_t* row = tile + i * p.width;
      for (int64_t x = 0; x < whole; ++x) {
        uint32_t pixels;
        std::memcpy(&pixels, row + 4 * x, 4);
        blocks[x] |= static_cast<uint8_t>((pixels != 0 ? 1 : 0) | (pixels != full ? 2 : 0));
      }
      for (int64_t x = 4 * whole; x < p.width; ++x) {
        blocks[whole] |= static_cast<uint8_t>((row[x] != 0 ? 1 : 0) | (row[x] != p.full ? 2 : 0));
      }
    }
  }

  int64_t rows_, columns_;
  std::vector<uint8_t> touched_;
  int64_t count_[kBases] = {};
};

template <class Acc>
struct Entries {
  std::vector<int32_t> positions;  // ascending
  std::vector<Acc> values;         // [entries, N]
};

// A tile of one value.
template <class Acc>
struct Base {
  // [3][N][columns]: features of the first row, of those between, and of the last row
  std::vector<Acc> rows;
  std::vector<Acc> constant;  // [N]
  Entries<Acc> border;        // where the features are not the constant

  const Acc* row(const MaskEncodeParams& p, int64_t y, int64_t n) const {
    const int64_t last = quarter_size(p.height) - 1;
    const int64_t kind = y == 0 ? 0 : y == last ? 2 : 1;
    return rows.data() + (kind * p.tokens + n) * quarter_size(p.width);
  }
};

template <class T, class Acc>
Base<Acc> make_base(const MaskEncodeParams& p, int value, TypeTag<T> tag) {
  FeatureRows<Acc> features(p, tag);
  const std::vector<uint8_t> tile(static_cast<size_t>(p.height * p.width),
                                  static_cast<uint8_t>(value));
  const int64_t num_rows = features.rows(), columns = features.columns();
  Base<Acc> base;
  for (const int64_t y : {int64_t{0}, std::min<int64_t>(1, num_rows - 1), num_rows - 1}) {
    features.set_row(tile.data(), y, 0, columns);
    for (int64_t n = 0; n < p.tokens; ++n) {
      base.rows.insert(base.rows.end(), features.features(n), features.features(n) + columns);
    }
  }
  const int64_t inside_y = num_rows / 2, inside_x = columns / 2;
  for (int64_t n = 0; n < p.tokens; ++n) {
    base.constant.push_back(base.row(p, inside_y, n)[inside_x]);
  }
  for (int64_t y = 0; y < num_rows; ++y) {
    for (int64_t x = 0; x < columns; ++x) {
      bool differs = false;
      for (int64_t n = 0; n < p.tokens; ++n) {
        differs |= base.row(p, y, n)[x] != base.constant[static_cast<size_t>(n)];
      }
      if (!differs) continue;
      base.border.positions.push_back(static_cast<int32_t>(y * columns + x));
      for (int64_t n = 0; n < p.tokens; ++n) {
        base.border.values.push_back(base.row(p, y, n)[x] - base.constant[static_cast<size_t>(n)]);
      }
    }
  }
  return base;
}

template <class Acc>
Entries<Acc> tile_entries(const MaskEncodeParams& p, FeatureRows<Acc>& features,
                          const uint8_t* tile, const Outline& outline, const Base<Acc>& base) {
  Entries<Acc> entries;
  entries.positions.reserve(static_cast<size_t>(outline.count()));
  entries.values.reserve(static_cast<size_t>(outline.count() * p.tokens));
  const int64_t columns = features.columns();
  for (int64_t y = 0; y < features.rows(); ++y) {
    int64_t begin = 0, end = columns;
    while (begin < end && !outline.touched(y, begin)) ++begin;
    while (begin < end && !outline.touched(y, end - 1)) --end;
    if (begin == end) continue;
    features.set_row(tile, y, begin, end);
    for (int64_t x = begin; x < end; ++x) {
      if (!outline.touched(y, x)) continue;
      entries.positions.push_back(static_cast<int32_t>(y * columns + x));
      for (int64_t n = 0; n < p.tokens; ++n) {
        entries.values.push_back(features.features(n)[x] - base.row(p, y, n)[x]);
      }
    }
  }
  return entries;
}

}  // namespace fastregion::cpu
