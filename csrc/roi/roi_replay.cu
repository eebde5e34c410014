// CUDA side of roi_replay; the equations are in the header.
//
// Forward: a thread makes kBinsPerThread neighbouring bins of one output row for kVector channels.
// It walks the columns that these bins sample, reduces the <= 4 source rows of a column once, and
// keeps the last two reduced columns in registers: neighbouring samples mostly share them. Threads
// of a warp hold neighbouring channels, so every load and store is coalesced.
// Traffic: touched cells once from memory (repeats hit the caches), every bin written once.
//
// Backward: a thread owns kVector channels of one cell and gathers from the bins that read it, box
// by box, so there are no atomics and the order of the sum is fixed. Boxes that do not reach the
// cell's row or column cost two comparisons per output row.
#include "core/device.h"
#include "core/vectors.h"
#include "roi/bilinear.h"
#include "roi/roi_replay.h"

namespace fastregion::cuda {
namespace {

constexpr int kThreads = 256;      // no shared memory; 80 registers let three such blocks on an SM
constexpr int kBinsPerThread = 4;  // shares columns between bins, leaves enough threads for one box

// One column of the map, reduced over the source rows of an output row.
template <class Acc, int kVector>
struct Column {
  int64_t x = -1;
  Acc values[kVector] = {};
};

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads)
    roi_replay_kernel(RoiReplayParams p, int64_t num_vectors, int64_t num_groups, int64_t total) {
  using Acc = accumulate_t<T>;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t channel = index % num_vectors * kVector;
  const int64_t group = index / num_vectors % num_groups;
  const int64_t i = index / num_vectors / num_groups % p.output_height;
  const int64_t roi = index / num_vectors / num_groups / p.output_height;

  const T* tokens = static_cast<const T*>(p.tokens) + channel;  // [T * P, token_stride]
  const Acc* box = static_cast<const Acc*>(p.boxes) + roi * 4;  // x1, y1, x2, y2
  const auto vertical = replay_axis(box[1], box[3], p.output_height, map_height(p));
  const auto horizontal = replay_axis(box[0], box[2], p.output_width, map_width(p));
  AxisSample<Acc> row[kReplaySamples];
  for (int s = 0; s < kReplaySamples; ++s) row[s] = axis_sample(vertical, i, s);

  Column<Acc, kVector> recent, older;
  // Adds weight * (reduced column x) to the sums of a bin.
  const auto add_column = [&](int64_t x, Acc weight, Acc* sums) {
    if (weight == 0) return;
    if (x != recent.x && x != older.x) {
      older = recent;
      recent = {};
      recent.x = x;
      for (int s = 0; s < kReplaySamples; ++s) {
        const int64_t cells[] = {row[s].cell, row[s].next};
        const Acc weights[] = {row[s].weight, row[s].next_weight};
        for (int k = 0; k < 2; ++k) {
          if (weights[k] == 0) continue;  // a sample outside of the map reads nothing
          const int64_t token = token_of_row(p, cells[k]) + token_of_column(p, x);
          const auto pack =
              *reinterpret_cast<const Pack<T, kVector>*>(tokens + token * p.token_stride);
          for (int v = 0; v < kVector; ++v) {
            recent.values[v] += weights[k] * to_float(pack.values[v]);
          }
        }
      }
    }
    const bool is_recent = x == recent.x;
    for (int v = 0; v < kVector; ++v) {
      sums[v] += weight * (is_recent ? recent.values[v] : older.values[v]);
    }
  };

  for (int64_t j = group * kBinsPerThread; j < (group + 1) * kBinsPerThread && j < p.output_width;
       ++j) {
    Acc sums[kVector] = {};
    for (int s = 0; s < kReplaySamples; ++s) {
      const auto column = axis_sample(horizontal, j, s);
      add_column(column.cell, column.weight, sums);
      add_column(column.next, column.next_weight, sums);
    }
    Pack<T, kVector> pack;
    for (int v = 0; v < kVector; ++v) pack.values[v] = from_float<T>(sums[v]);
    const int64_t bin = i * p.output_width + j;
    T* out = static_cast<T*>(p.bins) + roi * p.box_stride + bin * p.bin_stride + channel;
    *reinterpret_cast<Pack<T, kVector>*>(out) = pack;
  }
}

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads)
    roi_replay_backward_kernel(RoiReplayParams p, int64_t num_vectors, int64_t total) {
  using Acc = accumulate_t<T>;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t channel = index % num_vectors * kVector;
  const int64_t x = index / num_vectors % map_width(p);
  const int64_t y = index / num_vectors / map_width(p);

  Acc sums[kVector] = {};
  for (int64_t roi = 0; roi < p.num_rois; ++roi) {
    const Acc* box = static_cast<const Acc*>(p.boxes) + roi * 4;  // x1, y1, x2, y2
    const auto vertical = replay_axis(box[1], box[3], p.output_height, map_height(p));
    const auto horizontal = replay_axis(box[0], box[2], p.output_width, map_width(p));
    for (int64_t i = 0; i < p.output_height; ++i) {
      const Acc row = axis_weight(vertical, i, y);
      if (row == 0) continue;
      for (int64_t j = 0; j < p.output_width; ++j) {
        const Acc weight = row * axis_weight(horizontal, j, x);
        if (weight == 0) continue;
        const int64_t bin = i * p.output_width + j;
        const T* grad =
            static_cast<const T*>(p.bins) + roi * p.box_stride + bin * p.bin_stride + channel;
        const auto pack = *reinterpret_cast<const Pack<T, kVector>*>(grad);
        for (int v = 0; v < kVector; ++v) sums[v] += weight * to_float(pack.values[v]);
      }
    }
  }
  Pack<T, kVector> pack;
  for (int v = 0; v < kVector; ++v) pack.values[v] = from_float<T>(sums[v]);
  const int64_t token = token_of_row(p, y) + token_of_column(p, x);
  T* out = static_cast<T*>(p.tokens) + token * p.token_stride + channel;
  *reinterpret_cast<Pack<T, kVector>*>(out) = pack;
}

// Whether rows of channels can be moved as whole vectors.
template <class T>
bool in_vectors(const RoiReplayParams& p) {
  return vectorizable<T>({p.channels, p.token_stride, p.box_stride, p.bin_stride},
                         {p.tokens, p.bins});
}

template <class T, int kVector>
void launch_forward(const RoiReplayParams& p, cudaStream_t stream) {
  const int64_t num_vectors = p.channels / kVector;
  const int64_t num_groups = ceil_div<int64_t>(p.output_width, kBinsPerThread);
  const int64_t total = p.num_rois * p.output_height * num_groups * num_vectors;
  launch("roi_replay", roi_replay_kernel<T, kVector>, one_thread_each(total, kThreads, stream), p,
         num_vectors, num_groups, total);
}

template <class T, int kVector>
void launch_backward(const RoiReplayParams& p, cudaStream_t stream) {
  const int64_t num_vectors = p.channels / kVector;
  const int64_t total = map_height(p) * map_width(p) * num_vectors;
  launch("roi_replay_backward", roi_replay_backward_kernel<T, kVector>,
         one_thread_each(total, kThreads, stream), p, num_vectors, total);
}

}  // namespace

void roi_replay(const RoiReplayParams& params, cudaStream_t stream) {
  if (params.num_rois == 0 || params.channels == 0) return;  // an empty grid is a launch error
  dispatch_float<__half, __nv_bfloat16>(params.dtype, "roi_replay", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (in_vectors<T>(params)) {
      launch_forward<T, kVectorLength<T>>(params, stream);
    } else {
      launch_forward<T, 1>(params, stream);
    }
  });
}

void roi_replay_backward(const RoiReplayParams& params, cudaStream_t stream) {
  if (params.channels == 0) return;  // without boxes the kernel writes the zeros
  dispatch_float<__half, __nv_bfloat16>(params.dtype, "roi_replay_backward", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (in_vectors<T>(params)) {
      launch_backward<T, kVectorLength<T>>(params, stream);
    } else {
      launch_backward<T, 1>(params, stream);
    }
  });
}

}  // namespace fastregion::cuda
