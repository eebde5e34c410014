// The two steps of RoI-Align for one box on a map whose channels are contiguous, and back.
//
// The box is separable. Forward, for a block of channels:
//   for every output row i:     row[x]     = sum over source rows y that i reads of wy * F(y, x)
//   for every output column j:  bins[i, j] = sum over columns x that j reads of wx * row[x]
// so a bin of 2 x 2 samples costs 4 multiply-adds a channel instead of 16, plus the shared first
// step. The gradient runs the two steps backwards.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "roi/box_taps.h"

namespace fastregion::cpu {

// Channels of a block: columns of 64 slots are 64 KiB, inside the L2 cache.
inline constexpr int64_t kChannelBlock = 256;

// bins[b * bin_stride + c] for all bins b, c < length <= kChannelBlock. Rows and slots of `taps`
// are offsets into `map`. `row` is scratch: [slots * length]. With `stream` the result goes past
// the caches (it is large and not read soon); finish_streams() must follow on the same thread.
// Instantiated for Out = In and for Out = accumulate_t<In>.
template <class Out, class In>
void pool_box(const BoxTaps<accumulate_t<In>>& taps, const In* map, accumulate_t<In>* row,
              Out* bins, int64_t bin_stride, int64_t length, bool stream);

// Adds the bins' gradients to `map`. Needs taps.transpose_columns().
template <class In>
void spread_box(const BoxTaps<accumulate_t<In>>& taps, const In* bins, int64_t bin_stride,
                accumulate_t<In>* map, int64_t length);

void finish_streams();

// Copies between planes [channels, count], `stride` elements from channel to channel, and rows
// [count, row_stride] with contiguous channels; rounded once where T is narrower.
template <class T>
void planes_to_rows(const T* planes, int64_t stride, accumulate_t<T>* rows, int64_t row_stride,
                    int64_t channels, int64_t count);
template <class T>
void rows_to_planes(const accumulate_t<T>* rows, int64_t row_stride, T* planes, int64_t stride,
                    int64_t channels, int64_t count);

}  // namespace fastregion::cpu
