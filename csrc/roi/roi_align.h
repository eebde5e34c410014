// roi_align: RoI-Align of boxes on feature maps, torchvision's operator.
//
//   bins[r, c, i, j] = sum over y, x of wy[r, i, y] * wx[r, j, x] * input[b(r), c, y, x]
//   gradient:  dinput[b, c, y, x] = sum over r of b(r) = b, i, j of wy * wx * bins[r, c, i, j]
//
//   input [N, C, H, W], planes (strides[3] == 1) or channels last (strides[1] == 1)
//   rois  [R, 5] (batch index, x1, y1, x2, y2); corners times spatial_scale are cells
//   bins  [R, C, oh, ow] contiguous; dinput [N, C, H, W] contiguous
//
// Weights: bilinear.h. Sums in float32 (double for double), rounded once.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#ifdef FASTREGION_WITH_CUDA
#include "core/stream.h"
#endif

namespace fastregion {

struct RoiAlignParams {
  DType dtype;       // of input and bins
  void* input;       // forward: read; gradient: written
  void* bins;        // forward: written; gradient: read
  const void* rois;  // [R, 5] float32, or float64 when dtype is float64
  int64_t num_images, channels, height, width;
  int64_t batch_stride, channel_stride, row_stride, column_stride;  // of input, in elements
  int64_t num_rois, output_height, output_width, sampling_ratio;    // <= 0: adaptive
  double spatial_scale;
  bool aligned;
};

namespace cpu {
// Deterministic, for any number of threads.
void roi_align(const RoiAlignParams& params, int num_threads);
void roi_align_backward(const RoiAlignParams& params, int num_threads);
}  // namespace cpu

#ifdef FASTREGION_WITH_CUDA
namespace cuda {
// On the current device. Boxes are not checked: one with NaN, or of no image, gives zeros.
void roi_align(const RoiAlignParams& params, cudaStream_t stream);
// Deterministic: every cell gathers from the bins that read it.
void roi_align_backward(const RoiAlignParams& params, cudaStream_t stream);
// Adds with atomics, in no fixed order, to `input`: zeros of float (double for double).
void roi_align_backward_atomic(const RoiAlignParams& params, cudaStream_t stream);
}  // namespace cuda
#endif

}  // namespace fastregion
