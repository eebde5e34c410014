// CPU side of mask_tiles; the definition is in the header.
//
// A row is resized by its runs, not by its pixels: a run of source pixels [a, b) covers the canvas
// pixels [ceil(a * canvas / W), ceil(b * canvas / W)), so the cost is that of the mask's outline.
// Canvas rows that come from the same source row are copied. Traffic: the source rows in use once,
// the tiles once, both at one bit per pixel.
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

constexpr int64_t ceil_div(int64_t count, int64_t size) { return (count + size - 1) / size; }

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

// Nearest resize of a row of `source_width` pixels to `canvas_width`; `canvas` [row_words].
void resize_row(const uint64_t* source, int64_t source_width, uint64_t* canvas,
                int64_t canvas_width) {
  std::fill_n(canvas, row_words(canvas_width), uint64_t{0});
  const auto boundary = [&](int64_t x) { return ceil_div(x * canvas_width, source_width); };
  int64_t run_begin = -1;
  uint64_t previous = 0;  // the last pixel of the word before
  for (int64_t w = 0; w < row_words(source_width); ++w) {
    // A bit of `edges` is a pixel that differs from the one to its left.
    for (uint64_t edges = source[w] ^ (source[w] << 1 | previous); edges != 0; edges &= edges - 1) {
      const int64_t x = boundary(w * kWordBits + std::countr_zero(edges));
      if (run_begin < 0) {
        run_begin = x;
      } else {
        set_bits(canvas, run_begin, x);
        run_begin = -1;
      }
    }
    previous = source[w] >> (kWordBits - 1);
  }
  if (run_begin >= 0) set_bits(canvas, run_begin, canvas_width);
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

// Resizes one mask to a canvas of grid_rows x grid_columns tiles and writes rows [begin, end) of
// it.
void resize_to_tiles(const MaskTilesParams& p, const uint64_t* mask, uint64_t* tiles,
                     int64_t grid_rows, int64_t grid_columns, int64_t begin, int64_t end) {
  const int64_t tile_words = row_words(p.tile_width);
  const int64_t canvas_height = grid_rows * p.tile_height;
  const int64_t canvas_width = grid_columns * p.tile_width;
  std::vector<uint64_t> canvas(static_cast<size_t>(row_words(canvas_width)));
  int64_t resized = -1;  // source row now in `canvas`
  for (int64_t i = begin; i < end; ++i) {
    const int64_t y = i * p.height / canvas_height;
    if (y != resized) {
      resize_row(mask + y * row_words(p.width), p.width, canvas.data(), canvas_width);
      resized = y;
    }
    for (int64_t c = 0; c < grid_columns; ++c) {
      const int64_t tile = i / p.tile_height * grid_columns + c;
      copy_bits(canvas.data(), c * p.tile_width, p.tile_width,
                tiles + (tile * p.tile_height + i % p.tile_height) * tile_words);
    }
  }
}

}  // namespace

void mask_tiles(const MaskTilesParams& p, int num_threads) {
  const int64_t thumbnail_rows = p.thumbnail ? p.tile_height : 0;
  const int64_t tile_size = p.tile_height * row_words(p.tile_width);
  const int64_t num_tiles = p.grid_rows * p.grid_columns + (p.thumbnail ? 1 : 0);
  // A mask has thumbnail_rows rows of the thumbnail, then the canvas rows.
  const int64_t rows = thumbnail_rows + p.grid_rows * p.tile_height;
  parallel_for(p.num_masks * rows, kRowsPerThread, num_threads, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin / rows; m * rows < end; ++m) {
      const uint64_t* mask = p.masks + m * p.height * row_words(p.width);
      uint64_t* tiles = p.tiles + m * num_tiles * tile_size;
      const int64_t first = std::max(begin - m * rows, int64_t{0});
      const int64_t last = std::min(end - m * rows, rows);
      resize_to_tiles(p, mask, tiles, 1, 1, first, std::min(last, thumbnail_rows));
      resize_to_tiles(p, mask, tiles + (p.thumbnail ? tile_size : 0), p.grid_rows, p.grid_columns,
                      std::max(first, thumbnail_rows) - thumbnail_rows, last - thumbnail_rows);
    }
  });
}

}  // namespace fastregion::cpu
