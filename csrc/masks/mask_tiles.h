// mask_tiles: nearest resize of bit-packed masks to a grid of tiles, split, without unpacking.
//
//   canvas(i, j) = mask(source_rows[i], source_columns[j])
//   tiles[m, first + r * columns + c, y, x] = canvas(r * th + y, c * tw + x)
//   with a thumbnail: first = 1, and tile 0 is the mask resized to one tile, by tables of its own
//
//   masks [M, H, row_words(W)]   tiles [M, T, th, row_words(tw)]   layout of regions/bit_rows.h
//   Tables ascend (regions/resize.h); those of a thumbnail stand before those of the canvas:
//   source_rows [first * th + rows * th]   source_columns [first * tw + columns * tw]
#pragma once

#include <cstdint>

#ifdef FASTREGION_WITH_CUDA
#include "core/stream.h"
#endif

namespace fastregion {

struct MaskTilesParams {
  const uint64_t* masks;
  uint64_t* tiles;
  const int64_t* source_rows;
  const int64_t* source_columns;
  int64_t num_masks, height, width;
  int64_t grid_rows, grid_columns, tile_height, tile_width;
  bool thumbnail;
};

namespace cpu {
void mask_tiles(const MaskTilesParams& params, int num_threads);
}  // namespace cpu

#ifdef FASTREGION_WITH_CUDA
namespace cuda {
void mask_tiles(const MaskTilesParams& params, cudaStream_t stream);
}  // namespace cuda
#endif

}  // namespace fastregion
