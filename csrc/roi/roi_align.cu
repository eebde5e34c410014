// CUDA side of roi_align; the equations are in the header.
//
// Forward: a thread makes one bin, of one channel where the input is planes, of kVector channels
// where it is channels last. Neighbouring threads hold neighbouring bins of a plane, which read
// neighbouring cells, or neighbouring channels. Traffic: touched cells once from memory (repeats
// hit the caches), every bin written once.
//
// Backward: a thread owns one cell and gathers from the bins that read it, box by box: a fixed
// order. A box that does not reach the cell costs a few comparisons. The atomic form is faster for
// many boxes: a thread adds the gradient of one bin to the cells that it read.
#include "core/device.h"
#include "core/vectors.h"
#include "roi/bilinear.h"
#include "roi/roi_align.h"

namespace fastregion::cuda {
namespace {

constexpr int kThreads = 256;  // no shared memory; a few blocks on each SM hide the latency

template <class Real>
struct BoxAxes {
  int64_t image = -1;  // none
  Axis<Real> vertical, horizontal;
};

template <class Real>
__host__ __device__ BoxAxes<Real> box_axes(const RoiAlignParams& p, int64_t roi) {
  const Real* box = static_cast<const Real*>(p.rois) + roi * 5;  // batch index, x1, y1, x2, y2
  if (!(box[0] >= 0 && box[0] < static_cast<Real>(p.num_images))) return {};  // NaN too
  const Real scale = static_cast<Real>(p.spatial_scale);
  return {static_cast<int64_t>(box[0]),
          align_axis(box[2], box[4], scale, p.aligned, p.sampling_ratio, p.output_height, p.height),
          align_axis(box[1], box[3], scale, p.aligned, p.sampling_ratio, p.output_width, p.width)};
}

// Calls body(y, x, weight) for every cell that bin (i, j) reads.
template <class Real, class Body>
__host__ __device__ void for_each_tap(const BoxAxes<Real>& box, int64_t i, int64_t j,
                                      const Body& body) {
  const SampleRange rows = samples_on_map(box.vertical, i);
  const SampleRange columns = samples_on_map(box.horizontal, j);
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const AxisSample<Real> y = axis_sample(box.vertical, i, row);
    if (y.weight == 0 && y.next_weight == 0) continue;
    for (int64_t column = columns.first; column < columns.last; ++column) {
      const AxisSample<Real> x = axis_sample(box.horizontal, j, column);
      // Weights of 0 are skipped: nothing is read outside of the map.
      if (y.weight * x.weight != 0) body(y.cell, x.cell, y.weight * x.weight);
      if (y.weight * x.next_weight != 0) body(y.cell, x.next, y.weight * x.next_weight);
      if (y.next_weight * x.weight != 0) body(y.next, x.cell, y.next_weight * x.weight);
      if (y.next_weight * x.next_weight != 0) body(y.next, x.next, y.next_weight * x.next_weight);
    }
  }
}

// kChannelsFast: consecutive threads take consecutive channels, not bins.
template <class T, int kVector, bool kChannelsFast>
__global__ void __launch_bounds__(kThreads)
    roi_align_kernel(RoiAlignParams p, int64_t num_vectors, int64_t total) {
  using Acc = accumulate_t<T>;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t bins = p.output_height * p.output_width;
  const int64_t vector = kChannelsFast ? index % num_vectors : index / bins % num_vectors;
  const int64_t bin = kChannelsFast ? index / num_vectors % bins : index % bins;
  const int64_t roi = index / num_vectors / bins;
  const int64_t channel = vector * kVector;

  Acc sums[kVector] = {};
  const BoxAxes<Acc> box = box_axes<Acc>(p, roi);
  if (box.image >= 0) {
    const T* map =
        static_cast<const T*>(p.input) + box.image * p.batch_stride + channel * p.channel_stride;
    for_each_tap(
        box, bin / p.output_width, bin % p.output_width, [&](int64_t y, int64_t x, Acc weight) {
          const auto pack = *reinterpret_cast<const Pack<T, kVector>*>(map + y * p.row_stride +
                                                                       x * p.column_stride);
          for (int v = 0; v < kVector; ++v) sums[v] += weight * to_float(pack.values[v]);
        });
  }
  T* out = static_cast<T*>(p.bins) + (roi * p.channels + channel) * bins + bin;
  for (int v = 0; v < kVector; ++v) out[v * bins] = from_float<T>(sums[v]);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    roi_align_backward_atomic_kernel(RoiAlignParams p, int64_t total) {
  using Acc = accumulate_t<T>;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t bins = p.output_height * p.output_width;
  const int64_t bin = index % bins;
  const int64_t channel = index / bins % p.channels;
  const int64_t roi = index / bins / p.channels;

  const BoxAxes<Acc> box = box_axes<Acc>(p, roi);
  if (box.image < 0) return;
  const Acc grad = to_float(static_cast<const T*>(p.bins)[index]);
  Acc* plane = static_cast<Acc*>(p.input) + (box.image * p.channels + channel) * p.height * p.width;
  for_each_tap(
      box, bin / p.output_width, bin % p.output_width,
      [&](int64_t y, int64_t x, Acc weight) { atomicAdd(plane + y * p.width + x, weight * grad); });
}

// Whether some sample of the box can lie within a cell of `cell`, where its weight is not 0.
template <class Real>
__host__ __device__ bool reaches(const Axis<Real>& axis, int64_t bins, int64_t cell) {
  const Real end = axis.start + static_cast<Real>(bins) * axis.bin_size;
  const Real place = static_cast<Real>(cell);
  constexpr Real kMargin = Real(1.5);  // one cell, and rounding
  return (place >= axis.start - kMargin && place <= end + kMargin) ||
         (place >= end - kMargin && place <= axis.start + kMargin);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    roi_align_backward_kernel(RoiAlignParams p, int64_t total) {
  using Acc = accumulate_t<T>;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t x = index % p.width;
  const int64_t y = index / p.width % p.height;
  const int64_t channel = index / p.width / p.height % p.channels;
  const int64_t image = index / p.width / p.height / p.channels;
  const int64_t bins = p.output_height * p.output_width;

  Acc sum = 0;
  for (int64_t roi = 0; roi < p.num_rois; ++roi) {
    const BoxAxes<Acc> box = box_axes<Acc>(p, roi);
    if (box.image != image || !reaches(box.vertical, p.output_height, y) ||
        !reaches(box.horizontal, p.output_width, x)) {
      continue;
    }
    const T* grad = static_cast<const T*>(p.bins) + (roi * p.channels + channel) * bins;
    for (int64_t i = 0; i < p.output_height; ++i) {
      const Acc row = axis_weight(box.vertical, i, y);
      if (row == 0) continue;
      for (int64_t j = 0; j < p.output_width; ++j) {
        const Acc weight = row * axis_weight(box.horizontal, j, x);
        if (weight != 0) sum += weight * to_float(grad[i * p.output_width + j]);
      }
    }
  }
  static_cast<T*>(p.input)[index] = from_float<T>(sum);
}

template <class T, int kVector, bool kChannelsFast>
void launch_forward(const RoiAlignParams& p, cudaStream_t stream) {
  const int64_t num_vectors = p.channels / kVector;
  const int64_t total = p.num_rois * num_vectors * p.output_height * p.output_width;
  launch("roi_align", roi_align_kernel<T, kVector, kChannelsFast>,
         one_thread_each(total, kThreads, stream), p, num_vectors, total);
}

}  // namespace

void roi_align(const RoiAlignParams& params, cudaStream_t stream) {
  if (params.num_rois == 0 || params.channels == 0) return;  // an empty grid is a launch error
  dispatch_float<__half, __nv_bfloat16>(params.dtype, "roi_align", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const bool vectors = vectorizable<T>(
        {params.channels, params.batch_stride, params.row_stride, params.column_stride},
        {params.input});
    if (params.channel_stride != 1 || params.column_stride == 1) {
      launch_forward<T, 1, false>(params, stream);
    } else if (vectors) {
      launch_forward<T, kVectorLength<T>, true>(params, stream);
    } else {
      launch_forward<T, 1, true>(params, stream);
    }
  });
}

void roi_align_backward(const RoiAlignParams& params, cudaStream_t stream) {
  const int64_t total = params.num_images * params.channels * params.height * params.width;
  if (total == 0) return;
  dispatch_float<__half, __nv_bfloat16>(params.dtype, "roi_align_backward", [&](auto tag) {
    launch("roi_align_backward", roi_align_backward_kernel<typename decltype(tag)::type>,
           one_thread_each(total, kThreads, stream), params, total);
  });
}

void roi_align_backward_atomic(const RoiAlignParams& params, cudaStream_t stream) {
  const int64_t total =
      params.num_rois * params.channels * params.output_height * params.output_width;
  if (total == 0) return;
  dispatch_float<__half, __nv_bfloat16>(params.dtype, "roi_align_backward", [&](auto tag) {
    launch("roi_align_backward", roi_align_backward_atomic_kernel<typename decltype(tag)::type>,
           one_thread_each(total, kThreads, stream), params, total);
  });
}

}  // namespace fastregion::cuda
