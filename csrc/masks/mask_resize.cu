// CUDA side of mask_resize; the equations are in the header.
//
// One kernel a pass, one thread a value, neighbouring threads on neighbouring columns. The first
// pass reads bits: a window's words are tested as a whole, so that outside of the outline no weight
// is read. The second pass skips what it reads as 0. Traffic: the words, the rows between the
// passes written and read (mostly from the L2 cache), the result once.
#include "core/device.h"
#include "masks/mask_resize.h"
#include "regions/bit_rows.h"

namespace fastregion::cuda {
namespace {

constexpr int kThreads = 256;  // no shared memory, few registers: occupancy is not at stake

template <class Rule>
__global__ void __launch_bounds__(kThreads)
    resize_columns_kernel(MaskResizeParams p,
                          typename Rule::Value* rows,  // [M, H, out_width]
                          int64_t total) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t j = index % p.out_width;
  const uint64_t* words = p.masks + index / p.out_width * row_words(p.width);
  const int64_t begin = p.columns.windows[2 * j];
  const int64_t end = begin + p.columns.windows[2 * j + 1];
  const auto* weights = static_cast<const typename Rule::Sum*>(p.columns.weights);
  typename Rule::Sum sum = Rule::kStart;
  for (int64_t word = begin / kWordBits; word * kWordBits < end; ++word) {
    const uint64_t bits = words[word];
    if (bits == 0) continue;
    const int64_t first = word * kWordBits;
    for (int64_t x = first < begin ? begin : first; x < end && x < first + kWordBits; ++x) {
      if ((bits >> (x - first) & 1) != 0) {
        sum += Rule::kFull * weights[j * p.columns.taps + x - begin];
      }
    }
  }
  rows[index] = Rule::value(sum);
}

template <class Rule>
__global__ void __launch_bounds__(kThreads)
    resize_rows_kernel(MaskResizeParams p,
                       const typename Rule::Value* rows,  // [M, H, out_width]
                       int64_t total) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t j = index % p.out_width;
  const int64_t i = index / p.out_width % p.out_height;
  const int64_t m = index / p.out_width / p.out_height;
  const int64_t begin = p.rows.windows[2 * i];
  const int64_t count = p.rows.windows[2 * i + 1];
  const auto* weights = static_cast<const typename Rule::Sum*>(p.rows.weights) + i * p.rows.taps;
  const auto* column = rows + (m * p.height + begin) * p.out_width + j;
  typename Rule::Sum sum = Rule::kStart;
  for (int64_t k = 0; k < count; ++k) {
    const auto value = static_cast<typename Rule::Sum>(column[k * p.out_width]);
    if (value != 0) sum += value * weights[k];
  }
  p.out[index] = Rule::grey(sum);
}

template <class Rule>
void resize(const MaskResizeParams& p, void* workspace, cudaStream_t stream) {
  auto* rows = static_cast<typename Rule::Value*>(workspace);
  const int64_t row_values = p.num_masks * p.height * p.out_width;
  const int64_t total = p.num_masks * p.out_height * p.out_width;
  if (total == 0) return;  // an empty grid is a launch error
  launch("mask_resize", resize_columns_kernel<Rule>, one_thread_each(row_values, kThreads, stream),
         p, rows, row_values);
  launch("mask_resize", resize_rows_kernel<Rule>, one_thread_each(total, kThreads, stream), p, rows,
         total);
}

}  // namespace

int64_t mask_resize_workspace(const MaskResizeParams& p) {
  const auto bytes = p.fixed_point ? sizeof(FixedPoint::Value) : sizeof(Wrapped::Value);
  return p.num_masks * p.height * p.out_width * static_cast<int64_t>(bytes);
}

void mask_resize(const MaskResizeParams& p, void* workspace, cudaStream_t stream) {
  p.fixed_point ? resize<FixedPoint>(p, workspace, stream) : resize<Wrapped>(p, workspace, stream);
}

}  // namespace fastregion::cuda
