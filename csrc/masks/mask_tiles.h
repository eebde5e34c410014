// mask_tiles: nearest resize of bit-packed masks to a grid of tiles, split, without unpacking.
//
//   canvas(i, j) = mask(i * H / (rows * th), j * W / (columns * tw))      integer division
//   tiles[m, first + r * columns + c, y, x] = canvas(r * th + y, c * tw + x)
//   with a thumbnail: first = 1, and tile 0 is the mask resized to one tile by the same rule
//
//   masks [M, H, row_words(W)]   tiles [M, T, th, row_words(tw)]   layout of regions/bit_rows.h
#pragma once

#include <cstdint>

namespace fastregion {

struct MaskTilesParams {
  const uint64_t* masks;
  uint64_t* tiles;
  int64_t num_masks, height, width;
  int64_t grid_rows, grid_columns, tile_height, tile_width;
  bool thumbnail;
};

namespace cpu {
void mask_tiles(const MaskTilesParams& params, int num_threads);
}  // namespace cpu

}  // namespace fastregion
