// CUDA side of mask_tiles; the definition is in the header.
//
// A thread makes one word of a tile's row: 64 look-ups in the table of columns, each of which picks
// a bit of one source row. Neighbouring threads hold neighbouring words, so their rows and tables
// overlap in the L1 cache. Traffic: the source rows in use, the tables, every tile word once.
#include "core/device.h"
#include "masks/mask_tiles.h"
#include "regions/bit_rows.h"

namespace fastregion::cuda {
namespace {

constexpr int kThreads = 256;  // no shared memory, few registers: occupancy is not at stake

__global__ void __launch_bounds__(kThreads)
    mask_tiles_kernel(MaskTilesParams p, int64_t num_thumbnails, int64_t num_tiles, int64_t total) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t tile_words = row_words(p.tile_width);
  const int64_t word = index % tile_words;
  const int64_t y = index / tile_words % p.tile_height;
  const int64_t tile = index / tile_words / p.tile_height % num_tiles;
  const int64_t m = index / tile_words / p.tile_height / num_tiles;

  // Where the tile's tables begin: the thumbnail's are first.
  const int64_t cell = tile - num_thumbnails;
  const bool in_grid = cell >= 0;
  const int64_t row = in_grid ? (num_thumbnails + cell / p.grid_columns) * p.tile_height : 0;
  const int64_t column = in_grid ? (num_thumbnails + cell % p.grid_columns) * p.tile_width : 0;
  const uint64_t* source =
      p.masks + (m * p.height + p.source_rows[row + y]) * row_words(p.width);  // [row_words(W)]
  const int64_t first = word * kWordBits;
  uint64_t bits = 0;
  for (int64_t x = first; x < first + kWordBits && x < p.tile_width; ++x) {
    const int64_t from = p.source_columns[column + x];
    bits |= (source[from / kWordBits] >> (from % kWordBits) & 1) << (x - first);
  }
  p.tiles[index] = bits;
}

}  // namespace

void mask_tiles(const MaskTilesParams& p, cudaStream_t stream) {
  const int64_t num_thumbnails = p.thumbnail ? 1 : 0;
  const int64_t num_tiles = num_thumbnails + p.grid_rows * p.grid_columns;
  const int64_t total = p.num_masks * num_tiles * p.tile_height * row_words(p.tile_width);
  if (total == 0) return;  // an empty grid is a launch error
  launch("mask_tiles", mask_tiles_kernel, one_thread_each(total, kThreads, stream), p,
         num_thumbnails, num_tiles, total);
}

}  // namespace fastregion::cuda
