// The parts of the gradient of cross_attention on CUDA, one file each; the equations are in
// cross_attention.h. No atomics: every sum has one owner and a fixed order.
#pragma once

#include "attention/attention_tiles.h"

namespace fastregion::cuda {

// In float, double for double.
struct BackwardWorkspace {
  void* offsets;     // D [all queries, heads]; 0 where a query sees no key
  void* bias_parts;  // [key-value heads, all keys]: the gradient of key_bias head by head, or null
};

// Both kernels keep two tiles and stream two. Registers limit the streamed rows, shared memory the
// rest.
constexpr Tiling backward_tiling(int row_bytes) {
  if (row_bytes <= 176) return {.warps = 4, .streamed = 32, .stages = 2};
  if (row_bytes <= 272) return {.warps = 4, .streamed = 16, .stages = 2};
  if (row_bytes <= 528) return {.warps = 4, .streamed = 16, .stages = 1};
  if (row_bytes <= 1040) return {.warps = 2, .streamed = 16, .stages = 1};
  return {.warps = 1, .streamed = 8, .stages = 1};
}

void query_gradients(const CrossAttentionParams& params, const CrossAttentionGradients& gradients,
                     const BackwardWorkspace& workspace, cudaStream_t stream);
void key_gradients(const CrossAttentionParams& params, const CrossAttentionGradients& gradients,
                   const BackwardWorkspace& workspace, cudaStream_t stream);

}  // namespace fastregion::cuda
