// CPU side of mask_tiles; the definition is in the header.
//
// Tile by tile, straight from the mask: the tiles of a column share what regions/resize.h derives
// from their part of the table. Traffic: the words of the mask that a tile needs, once for the
// tile, and the tiles once, both at one bit per pixel.
#include "masks/mask_tiles.h"

#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "regions/bit_rows.h"
#include "regions/resize.h"

namespace fastregion::cpu {
namespace {

// Rows of tiles for which a second thread pays.
constexpr int64_t kRowsPerThread = 1024;

// Tiles side by side: the thumbnail alone, or a row of the grid.
struct Band {
  int64_t first_tile, first_column;  // of the mask's tiles; of the columns that have a table
  int64_t num_tiles;
};

Band band_of(const MaskTilesParams& p, int64_t number) {
  if (p.thumbnail && number == 0) return {0, 0, 1};
  const int64_t first = p.thumbnail ? 1 : 0;
  return {first + (number - first) * p.grid_columns, first, p.grid_columns};
}

}  // namespace

void mask_tiles(const MaskTilesParams& p, int num_threads) {
  const int64_t num_thumbnails = p.thumbnail ? 1 : 0;
  const int64_t num_bands = num_thumbnails + p.grid_rows;
  const int64_t num_tiles = num_thumbnails + p.grid_rows * p.grid_columns;
  std::vector<RowResizer> columns;  // of the thumbnail, of each column of tiles
  for (int64_t c = 0; c < num_thumbnails + p.grid_columns; ++c) {
    columns.emplace_back(p.width, p.source_columns + c * p.tile_width, p.tile_width);
  }
  const int64_t mask_size = p.height * row_words(p.width);
  const int64_t tile_size = p.tile_height * row_words(p.tile_width);
  // The rows of all bands of all masks.
  parallel_for(p.num_masks * num_bands * p.tile_height, kRowsPerThread / p.grid_columns + 1,
               num_threads, [&](int64_t begin, int64_t end) {
                 for (int64_t row = begin, next; row < end; row = next) {
                   const int64_t y = row % p.tile_height;
                   next = std::min(row - y + p.tile_height, end);
                   const int64_t number = row / p.tile_height % num_bands;
                   const int64_t m = row / p.tile_height / num_bands;
                   const uint64_t* mask = p.masks + m * mask_size;
                   const int64_t* source_rows = p.source_rows + number * p.tile_height;
                   const Band band = band_of(p, number);
                   uint64_t* tile = p.tiles + (m * num_tiles + band.first_tile) * tile_size;
                   for (int64_t c = 0; c < band.num_tiles; ++c, tile += tile_size) {
                     const RowResizer& resize = columns[static_cast<size_t>(band.first_column + c)];
                     resize(mask, source_rows, y, y + next - row, tile);
                   }
                 }
               });
}

}  // namespace fastregion::cpu
