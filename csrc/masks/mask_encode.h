// mask_encode: two 3 x 3 convolutions with stride 2 on mask tiles, then one linear layer a channel.
//
//   h[t, m] = relu(conv1_bias[m] + conv1_weight[m] * (scale * tiles[t]))
//   f[t, n] = relu(conv2_bias[n] + sum over m of conv2_weight[n, m] * h[t, m])
//   out[t, n, c] = linear_bias[c] + sum over positions of weight[c, position] * f[t, n, position]
//
//   both convolutions with stride 2 and padding 1
//
//   tiles [T, H, W] uint8   conv1_weight [M, 1, 3, 3]   conv2_weight [N, M, 3, 3]
//   f [T, N, P], P = ceil(H / 4) * ceil(W / 4) positions, row-major   weight [C, P]   out [T, N, C]
//
// A position sees 7 x 7 pixels. Where they all equal one value, f is that of a tile of this value,
// so only the positions at the mask's outline (and in its grey parts) are summed:
//
//   out[t, n, c] = linear_bias[c] + f0[n] * weight_sums[c] + sum over positions with f != f0
//                  of weight[c, position] * (f[t, n, position] - f0[n])
//
// with f0 that of the empty or the full tile, away from the border, and weight_sums[c] the sum of
// weight[c, :].
//
// Sums in float32 (double for double), rounded once. Deterministic.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#ifdef FASTREGION_WITH_CUDA
#include "core/stream.h"
#endif

namespace fastregion {

struct MaskEncodeParams {
  DType dtype;  // of the parameters and of all results
  const uint8_t* tiles;
  double scale;
  int full;  // what a pixel inside of a binary mask holds: 1 or 255
  const void* conv1_weight;
  const void* conv1_bias;
  const void* conv2_weight;
  const void* conv2_bias;
  int64_t num_tiles, height, width;
  int64_t hidden, tokens;  // M, N
};

struct MaskLinearParams {
  const void* weight;  // [C, P] by strides in elements; channel_stride 1 is the fast layout
  int64_t channel_stride, position_stride;
  const void* bias;         // [C]
  const void* weight_sums;  // [C] float32, or float64 when the dtype is float64; may be null
  int64_t channels;
  void* out;  // [T, N, C]
};

// Sizes of h and f.
constexpr int64_t half_size(int64_t size) { return (size + 1) / 2; }
constexpr int64_t quarter_size(int64_t size) { return (size + 3) / 4; }
constexpr int64_t num_positions(const MaskEncodeParams& p) {
  return quarter_size(p.height) * quarter_size(p.width);
}

namespace cpu {

// Channels that the inner loop of mask_encode takes at a time.
inline constexpr int64_t kEncodeStrip = 64;
// Partial sums that a gradient of the convolutions is kept in: the widest vector of floats.
inline constexpr int64_t kSumLanes = 16;

// The share of positions that mask_encode would sum, 0 to 1.
double mask_encode_share(const MaskEncodeParams& params);

void mask_encode(const MaskEncodeParams& params, const MaskLinearParams& linear, int num_threads);

// f [T, N, P], all positions.
void mask_features(const MaskEncodeParams& params, void* features, int num_threads);

// Gradients of the four parameters of the convolutions from that of f.
void mask_features_backward(const MaskEncodeParams& params, const void* grad, void* conv1_weight,
                            void* conv1_bias, void* conv2_weight, void* conv2_bias,
                            int num_threads);

}  // namespace cpu

#ifdef FASTREGION_WITH_CUDA
namespace cuda {

// The arguments of the functions above, and a workspace of as many bytes as *_workspace says. At
// most kLargestHidden hidden channels.
inline constexpr int64_t kLargestHidden = 64;

int64_t mask_encode_workspace(const MaskEncodeParams& params, int64_t channels);
void mask_encode(const MaskEncodeParams& params, const MaskLinearParams& linear, void* workspace,
                 cudaStream_t stream);

// For h: once for the features, twice (`copies`) for their gradient.
int64_t mask_features_workspace(const MaskEncodeParams& params, int64_t copies);
void mask_features(const MaskEncodeParams& params, void* features, void* workspace,
                   cudaStream_t stream);
void mask_features_backward(const MaskEncodeParams& params, const void* grad, void* conv1_weight,
                            void* conv1_bias, void* conv2_weight, void* conv2_bias, void* workspace,
                            cudaStream_t stream);

}  // namespace cuda
#endif

}  // namespace fastregion
