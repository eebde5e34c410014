// CPU side of mask_tiles; the definition is in the header.
//
// A row is resized by its runs, not by its pixels: a run of source pixels [a, b) covers the canvas
// pixels from the first that comes from a or later to the first that comes from b or later, so the
// cost is that of the mask's outline. Canvas rows that come from the same source row are copied.
// Traffic: the source rows in use once, the tiles once, both at one bit per pixel.
#include "masks/mask_tiles.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "core/parallel.h"
#include "regions/bit_rows.h"

namespace fastregion::cpu {
namespace {

// Canvas rows for which a second thread pays.
constexpr int64_t kRowsPerThread = 256;

// Sets bits [begin, end) of a row.
void set_bits(uint64_t* words, int64_t begin, int64_t end) {
  if (begin >= end) return;
  const int64_t first = begin / kWordBits;
  const int64_t last = (end - 1) / kWordBits;
  const uint64_t from = ~uint64_t{0} << (begin % kWordBits);
  const uint64_t to = ~uint64_t{0} >> (kWordBits - 1 - (end - 1) % kWordBits);
  if (first == last) {
    words[first] |= from & to;
    return;
  }
  words[first] |= from;
  std::fill(words + first + 1, words + last, ~uint64_t{0});
  words[last] |= to;
}

// The picture that the tiles of a grid make together.
struct Canvas {
  int64_t grid_rows, grid_columns;
  const int64_t* source_rows;  // [grid_rows * tile_height]
  // [W + 1]: the first canvas column that comes from source column x or a later one.
  std::vector<int64_t> columns;

  Canvas(const MaskTilesParams& p, int64_t rows, int64_t columns_of_tiles,
         const int64_t* rows_table, const int64_t* columns_table)
      : grid_rows(rows), grid_columns(columns_of_tiles), source_rows(rows_table) {
    const int64_t width = grid_columns * p.tile_width;
    int64_t column = 0;
    for (int64_t x = 0; x <= p.width; ++x) {
      while (column < width && columns_table[column] < x) ++column;
      columns.push_back(column);
    }
  }

  int64_t width() const { return columns.back(); }
};

// Nearest resize of a source row to a row of the canvas, [row_words(canvas.width())].
void resize_row(const uint64_t* source, int64_t source_width, const Canvas& canvas,
                uint64_t* resized) {
  std::fill_n(resized, row_words(canvas.width()), uint64_t{0});
  int64_t run_begin = -1;
  uint64_t previous = 0;  // the last pixel of the word before
  for (int64_t w = 0; w < row_words(source_width); ++w) {
    uint64_t pixels = source[w];
    const int64_t left = source_width - w * kWordBits;
    if (left < kWordBits) pixels &= (uint64_t{1} << left) - 1;  // the rest should be 0, but may not
    // A bit of `edges` is a pixel that differs from the one to its left.
    for (uint64_t edges = pixels ^ (pixels << 1 | previous); edges != 0; edges &= edges - 1) {
      const int64_t x =
          canvas.columns[static_cast<size_t>(w * kWordBits + std::countr_zero(edges))];
      if (run_begin < 0) {
        run_begin = x;
      } else {
        set_bits(resized, run_begin, x);
        run_begin = -1;
      }
    }
    previous = pixels >> (kWordBits - 1);
  }
  if (run_begin >= 0) set_bits(resized, run_begin, canvas.width());
}

// Copies bits [begin, begin + width) of a row to the start of another, padding with 0.
void copy_bits(const uint64_t* from, int64_t begin, int64_t width, uint64_t* to) {
  const uint64_t* word = from + begin / kWordBits;
  const int shift = static_cast<int>(begin % kWordBits);
  int64_t left = width;
  for (; left > 0; left -= kWordBits, ++word, ++to) {
    uint64_t bits = *word >> shift;
    // The next word is read only if it holds a wanted bit: it may lie past the row's end.
    if (shift != 0 && left > kWordBits - shift) bits |= word[1] << (kWordBits - shift);
    *to = left >= kWordBits ? bits : bits & ~(~uint64_t{0} << left);
  }
}

// Resizes one mask to the canvas and writes rows [begin, end) of it into its tiles.
void resize_to_tiles(const MaskTilesParams& p, const Canvas& canvas, const uint64_t* mask,
                     uint64_t* tiles, int64_t begin, int64_t end) {
  const int64_t tile_words = row_words(p.tile_width);
  std::vector<uint64_t> row(static_cast<size_t>(row_words(canvas.width())));
  int64_t resized = -1;  // source row now in `row`
  for (int64_t i = begin; i < end; ++i) {
    const int64_t y = canvas.source_rows[i];
    if (y != resized) {
      resize_row(mask + y * row_words(p.width), p.width, canvas, row.data());
      resized = y;
    }
    for (int64_t c = 0; c < canvas.grid_columns; ++c) {
      const int64_t tile = i / p.tile_height * canvas.grid_columns + c;
      copy_bits(row.data(), c * p.tile_width, p.tile_width,
                tiles + (tile * p.tile_height + i % p.tile_height) * tile_words);
    }
  }
}

}  // namespace

void mask_tiles(const MaskTilesParams& p, int num_threads) {
  if (p.num_masks == 0) return;
  const int64_t num_thumbnails = p.thumbnail ? 1 : 0;
  const Canvas thumbnail(p, num_thumbnails, num_thumbnails, p.source_rows, p.source_columns);
  const Canvas grid(p, p.grid_rows, p.grid_columns, p.source_rows + num_thumbnails * p.tile_height,
                    p.source_columns + num_thumbnails * p.tile_width);
  const int64_t tile_size = p.tile_height * row_words(p.tile_width);
  const int64_t mask_size = p.height * row_words(p.width);
  // The rows of a mask to write: those of the thumbnail, then those of the grid.
  const int64_t first_rows = num_thumbnails * p.tile_height;
  const int64_t rows = first_rows + p.grid_rows * p.tile_height;
  parallel_for(p.num_masks * rows, kRowsPerThread, num_threads, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin / rows; m * rows < end; ++m) {
      const uint64_t* mask = p.masks + m * mask_size;
      uint64_t* tiles = p.tiles + m * (num_thumbnails + p.grid_rows * p.grid_columns) * tile_size;
      const int64_t from = std::max(begin - m * rows, int64_t{0});
      const int64_t to = std::min(end - m * rows, rows);
      resize_to_tiles(p, thumbnail, mask, tiles, from, std::min(to, first_rows));
      resize_to_tiles(p, grid, mask, tiles + num_thumbnails * tile_size,
                      std::max(from, first_rows) - first_rows, to - first_rows);
    }
  });
}

}  // namespace fastregion::cpu
