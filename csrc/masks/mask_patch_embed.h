// mask_patch_embed: a convolution with stride = kernel over mask tiles, added to tokens.
//
//   out[t, n, c] = add_to[t, n, c] + background[c]
//                  + sum over i, j of kernel[i, j, c] * (m_tn(i, j) - outside)
//   background[c] = bias[c] + outside * sum over i, j of kernel[i, j, c]       (or 0)
//   kernel[i, j, c] = sum over ch of weight[c, ch, i, j]      (all input channels hold the mask)
//   gradient: grad_weight[c, ch, i, j] = sum over t, n of grad[t, n, c] * m_tn(i, j), any ch
//
//   tiles: bits [T, H, row_words(W)] (regions/bit_rows.h), 1 inside, or grey levels [T, H, W] bytes
//   m_tn(i, j): value of pixel (i, j) of patch n of tile t (patch_terms.h: 1 inside)
//   weight [C, ch, k, k]   bias [C]   table [2 * k * k, C] (patch_terms.h), in accumulate_t
//   add_to, out, grad [T, N, C], N = (H / k) * (W / k) patches, row-major; k <= kLargestPatch
//
// Sums in float32 (double for double), rounded once. Deterministic.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#ifdef FASTREGION_WITH_CUDA
#include "core/stream.h"
#endif

namespace fastregion {

struct MaskPatches {
  DType dtype;  // of weight, bias and tokens
  bool grey;
  const void* tiles;
  int64_t num_tiles, height, width, kernel_size;
  double outside;
};

constexpr int64_t patches_down(const MaskPatches& p) { return p.height / p.kernel_size; }
constexpr int64_t patches_across(const MaskPatches& p) { return p.width / p.kernel_size; }
constexpr int64_t num_patches(const MaskPatches& p) {
  return p.num_tiles * patches_down(p) * patches_across(p);
}

struct MaskPatchWeight {
  DType dtype;
  int64_t channels, input_channels, kernel_size;
};

struct MaskPatchTokens {
  const void* table;
  const void* bias;    // may be null
  const void* add_to;  // may be null, and may be `out`
  void* out;
  int64_t tile_stride, token_stride;  // elements, of add_to and out; channels are contiguous
  int64_t channels;
  // Without it, tokens of empty patches are not touched where add_to is out.
  bool add_background;
};

namespace cpu {
void mask_patch_table(const MaskPatchWeight& kernel, const void* weight, void* table,
                      int num_threads);
void mask_patch_embed(const MaskPatches& patches, const MaskPatchTokens& tokens, int num_threads);
void mask_patch_embed_backward(const MaskPatches& patches, const MaskPatchWeight& kernel,
                               const void* grad, void* grad_weight, int num_threads);
}  // namespace cpu

#ifdef FASTREGION_WITH_CUDA
namespace cuda {
void mask_patch_table(const MaskPatchWeight& kernel, const void* weight, void* table,
                      cudaStream_t stream);
void mask_patch_embed(const MaskPatches& patches, const MaskPatchTokens& tokens,
                      cudaStream_t stream);
void mask_patch_embed_backward(const MaskPatches& patches, const MaskPatchWeight& kernel,
                               const void* grad, void* grad_weight, cudaStream_t stream);
}  // namespace cuda
#endif

}  // namespace fastregion
