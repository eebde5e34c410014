// gated_residual_norm: a gated residual and the layer norm that follows it, in one pass over a row.
//
//   y[r, c] = x[r, c] + gate[c] * branch[r, c]                       rounded to the dtype
//   n[r, c] = (y[r, c] - mean_c(y[r])) / sqrt(var_c(y[r]) + eps)     of the rounded y
//   normed[r, c] = n[r, c] * weight[c] + bias[c]
//   gradient, with dn = dnormed * weight:
//     dx = dy + (dn - mean_c(dn) - n * mean_c(dn * n)) / sqrt(var_c(y[r]) + eps)
//     dbranch = gate * dx   dgate[c] = sum over r of dx * branch   (over c too, of a single gate)
//     dweight[c] = sum over r of dnormed * n                dbias[c] = sum over r of dnormed
//
//   x, branch [R, C] and their gradients; gate [C] or [1]; weight, bias [C]
//
// Sums in float32 (double for double), rounded once. The gradients of the parameters are summed
// over blocks of rows whose number depends on R alone, in a fixed order: deterministic, and the
// same for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/dtype.h"
#ifdef FASTREGION_WITH_CUDA
#include "core/stream.h"
#endif

namespace fastregion {

struct GatedNormParams {
  DType dtype;            // of x, branch, y, normed and their gradients
  DType parameter_dtype;  // of gate, weight, bias and their gradients: dtype, or that of its sums
  int64_t num_rows, channels;
  const void* gate;
  bool gate_per_channel;
  const void* weight;  // null: 1
  const void* bias;    // null: 0
  double eps;
};

// Rows with contiguous channels; the stride is in elements.
struct ConstRows {
  const void* data;
  int64_t stride;
};

// y and normed are contiguous.
struct GatedNormForward {
  ConstRows x, branch;
  void* y;
  void* normed;
};

// The gradients written are contiguous; those of weight and bias may be null: not wanted.
struct GatedNormBackward {
  ConstRows y, branch, grad_y, grad_normed;
  void* grad_x;
  void* grad_branch;
  void* grad_gate;
  void* grad_weight;
  void* grad_bias;
};

// Blocks of rows whose parts of the parameters' gradients are summed apart: few, so that the parts
// are small beside the rows, and enough to fill a device.
constexpr int64_t gated_norm_blocks(int64_t num_rows) {
  return std::min<int64_t>((num_rows + 3) / 4, 256);
}

// The parts [blocks, 3, C] of gate, weight and bias, in what sums are kept in. A single gate has
// its part in the first channel.
constexpr int64_t gated_norm_workspace_bytes(const GatedNormParams& p) {
  return gated_norm_blocks(p.num_rows) * 3 * p.channels * (p.dtype == DType::kFloat64 ? 8 : 4);
}

namespace cpu {
void gated_norm(const GatedNormParams& params, const GatedNormForward& rows, int num_threads);
void gated_norm_backward(const GatedNormParams& params, const GatedNormBackward& rows,
                         void* workspace, int num_threads);
}  // namespace cpu

#ifdef FASTREGION_WITH_CUDA
namespace cuda {
inline constexpr int64_t kGatedNormMaxChannels = 4096;  // 8 for each of 512 threads

// On the current device, at most kGatedNormMaxChannels.
void gated_norm(const GatedNormParams& params, const GatedNormForward& rows, cudaStream_t stream);
void gated_norm_backward(const GatedNormParams& params, const GatedNormBackward& rows,
                         void* workspace, cudaStream_t stream);
}  // namespace cuda
#endif

}  // namespace fastregion
