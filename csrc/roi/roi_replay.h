// roi_replay: RoI-Align of boxes on a grid of feature tiles, read straight from tile-major tokens.
//
//   bins[r, i, j, c] = sum over y, x of wy[r, i, y] * wx[r, j, x] * F(y, x, c)
//   F(y, x, :) = tokens[(y / th * grid_columns + x / tw) * th * tw + y % th * tw + x % tw, :]
//   gradient:    dF(y, x, c) = sum over r, i, j of wy[r, i, y] * wx[r, j, x] * bins[r, i, j, c]
//
//   tokens [T * P, C], T = grid_rows * grid_columns tiles of P = th * tw tokens, row-major
//   boxes  [R, 4] (x1, y1, x2, y2) in cells of F    bins [R, oh * ow, C], row-major
//
// Weights: bilinear.h. Sums in float32 (double for double), rounded once. Deterministic.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#ifdef FASTREGION_WITH_CUDA
#include "core/stream.h"
#endif

namespace fastregion {

struct RoiReplayParams {
  DType dtype;                     // of tokens and bins
  void* tokens;                    // forward: read; gradient: written
  void* bins;                      // forward: written; gradient: read
  const void* boxes;               // [R, 4] float32, or float64 when dtype is float64
  int64_t token_stride;            // elements from token to token; channels are contiguous
  int64_t box_stride, bin_stride;  // elements from box to box and from bin to bin
  int64_t num_rois, channels;
  int64_t grid_rows, grid_columns, tile_height, tile_width;
  int64_t output_height, output_width;
};

// Height and width of F.
constexpr int64_t map_height(const RoiReplayParams& p) { return p.grid_rows * p.tile_height; }
constexpr int64_t map_width(const RoiReplayParams& p) { return p.grid_columns * p.tile_width; }

// The token of cell (y, x) is token_of_row(y) + token_of_column(x).
constexpr int64_t token_of_row(const RoiReplayParams& p, int64_t y) {
  return (y / p.tile_height * p.grid_columns * p.tile_height + y % p.tile_height) * p.tile_width;
}
constexpr int64_t token_of_column(const RoiReplayParams& p, int64_t x) {
  return x / p.tile_width * p.tile_height * p.tile_width + x % p.tile_width;
}

namespace cpu {
void roi_replay(const RoiReplayParams& params, int num_threads);
void roi_replay_backward(const RoiReplayParams& params, int num_threads);
}  // namespace cpu

#ifdef FASTREGION_WITH_CUDA
namespace cuda {
// On the current device. Boxes are not checked: a bin whose samples are NaN is 0.
void roi_replay(const RoiReplayParams& params, cudaStream_t stream);
void roi_replay_backward(const RoiReplayParams& params, cudaStream_t stream);
}  // namespace cuda
#endif

}  // namespace fastregion
