// mask_patch_embed: a convolution with stride = kernel over binary mask tiles, added to tokens.
//
//   out[t, n, c] = add_to[t, n, c] + bias[c] + sum over i, j of kernel[i, j, c] * m_tn(i, j)
//   kernel[i, j, c] = sum over ch of weight[c, ch, i, j]      (all input channels hold the mask)
//   gradient: grad_weight[c, ch, i, j] = sum over t, n of grad[t, n, c] * m_tn(i, j), any ch
//
//   words [T, H, row_words(W)] (regions/bit_rows.h)   weight [C, ch, k, k]   bias [C]
//   add_to, out, grad [T, N, C], N = (H / k) * (W / k) patches, row-major; m_tn(i, j) is pixel
//   (i, j) of patch n of tile t. All contiguous; k <= 64.
//
// Sums in float32 (double for double), rounded once. Deterministic.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace fastregion {

struct MaskPatchEmbedParams {
  DType dtype;  // of everything but the words
  const uint64_t* words;
  int64_t num_tiles, height, width;
  int64_t channels, input_channels, kernel_size;
};

namespace cpu {

// bias and add_to may be null.
void mask_patch_embed(const MaskPatchEmbedParams& params, const void* weight, const void* bias,
                      const void* add_to, void* out, int num_threads);

void mask_patch_embed_backward(const MaskPatchEmbedParams& params, const void* grad,
                               void* grad_weight, int num_threads);

}  // namespace cpu
}  // namespace fastregion
