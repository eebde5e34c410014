// CPU side of roi_replay; the equations are in the header, the two steps in pool_box.h.
//
// Traffic: every touched cell once from memory (output rows that follow each other find their
// source rows in the cache; of many boxes, the map is copied once), every bin once. Work is split
// over (box, channel block), the gradient's over channel blocks: no two threads write the same
// place, and the order of every sum is fixed.
#include "roi/roi_replay.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/huge_pages.h"
#include "core/parallel.h"
#include "core/rows.h"
#include "roi/box_taps.h"
#include "roi/pool_box.h"

namespace fastregion::cpu {
namespace {

// The gradient keeps the whole map of a channel block in the L2 cache: 1 MiB of floats.
constexpr int64_t kMapElements = 256 * 1024;
constexpr int64_t kSmallestBlock = 64;
// Below this many written elements a second thread costs more than it brings.
constexpr int64_t kElementsPerThread = 32 * 1024;
// A larger result would push the map out of the cache before anybody reads it.
constexpr int64_t kStreamBytes = 4 * 1024 * 1024;

constexpr int64_t kBoxesPerChunk = 256;  // whose taps are kept at a time
constexpr int64_t kBoxesPerThread = 16;

// Whether streaming stores can write the bins: every vector of them starts on a cache line.
template <class T>
bool streamable(const RoiReplayParams& p) {
  constexpr int64_t kLine = 64;
  return p.num_rois * p.output_height * p.output_width * p.channels * int64_t{sizeof(T)} >=
             kStreamBytes &&
         reinterpret_cast<uintptr_t>(p.bins) % kLine == 0 &&
         p.box_stride * int64_t{sizeof(T)} % kLine == 0 &&
         p.bin_stride * int64_t{sizeof(T)} % kLine == 0;
}

template <class Real>
void set_box(const RoiReplayParams& p, int64_t roi, BoxTaps<Real>& taps,
             std::vector<int64_t>& slot_of_column) {
  const Real* box = static_cast<const Real*>(p.boxes) + roi * 4;  // x1, y1, x2, y2
  taps.set(replay_axis(box[1], box[3], p.output_height, map_height(p)), p.output_height,
           replay_axis(box[0], box[2], p.output_width, map_width(p)), p.output_width,
           slot_of_column);
}

// Cells between the first and the last row that a box reads.
template <class Real>
int64_t cells_of(const BoxTaps<Real>& taps) {
  if (taps.rows.cell.empty()) return 0;
  const auto [top, bottom] = std::ranges::minmax(taps.rows.cell);
  return (bottom - top + 1) * std::ssize(taps.slots);
}

// Copies `length` channels of the whole map to [T * P, length] in the accumulation type.
template <class T>
void copy_map(const RoiReplayParams& p, int64_t channel, int64_t length, accumulate_t<T>* map) {
  const accumulate_t<T> one = 1;
  const T* token = static_cast<const T*>(p.tokens) + channel;
  for (int64_t cell = 0; cell < map_height(p) * map_width(p); ++cell) {
    weighted_sum(map + cell * kChannelBlock, nullptr, &token, &one, 1, length);
    token += p.token_stride;
  }
}

template <class T>
void forward(const RoiReplayParams& p, int num_threads) {
  using Acc = accumulate_t<T>;
  const int64_t cells = map_height(p) * map_width(p);
  const int64_t bins_per_roi = p.output_height * p.output_width;
  const int64_t blocks = (p.channels + kChannelBlock - 1) / kChannelBlock;
  const int64_t item_elements = bins_per_roi * std::min(p.channels, kChannelBlock);
  const bool stream = streamable<T>(p);
  if (stream) advise_huge_pages(p.bins, p.num_rois * p.box_stride * int64_t{sizeof(T)});
  std::vector<BoxTaps<Acc>> boxes;
  for (int64_t first = 0; first < p.num_rois; first += std::ssize(boxes)) {
    boxes.resize(static_cast<size_t>(std::min(kBoxesPerChunk, p.num_rois - first)));
    parallel_for(std::ssize(boxes), kBoxesPerThread, num_threads, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> slot_of_column(static_cast<size_t>(map_width(p)), -1);
      for (int64_t k = begin; k < end; ++k) set_box(p, first + k, at(boxes, k), slot_of_column);
    });
    int64_t cells_read = 0;
    for (const BoxTaps<Acc>& taps : boxes) cells_read += cells_of(taps);
    // Tokens lie a power of two apart and fight for a few sets of the cache. Where the boxes read
    // the map more than once, copying a block of its channels side by side is less.
    const bool copy = cells_read >= cells;
    const int64_t stride = copy ? kChannelBlock : p.token_stride;
    for (BoxTaps<Acc>& taps : boxes) {
      taps.place([&](int64_t y) { return token_of_row(p, y) * stride; },
                 [&](int64_t x) { return token_of_column(p, x) * stride; });
    }
    const auto body = [&](int64_t begin, int64_t end) {
      std::vector<Acc> map(static_cast<size_t>(copy ? cells * kChannelBlock : 0)), row;
      for (int64_t item = begin; item < end; ++item) {
        const int64_t roi = first + item % std::ssize(boxes);
        const int64_t channel = item / std::ssize(boxes) * kChannelBlock;
        const int64_t length = std::min(kChannelBlock, p.channels - channel);
        const BoxTaps<Acc>& taps = at(boxes, roi - first);
        row.resize(std::max(row.size(), taps.slots.size() * kChannelBlock));
        T* bins = static_cast<T*>(p.bins) + roi * p.box_stride + channel;
        if (copy) {
          if (item == begin || roi == first) copy_map<T>(p, channel, length, map.data());
          pool_box(taps, map.data(), row.data(), bins, p.bin_stride, length, stream);
        } else {
          pool_box(taps, static_cast<const T*>(p.tokens) + channel, row.data(), bins, p.bin_stride,
                   length, stream);
        }
      }
      if (stream) finish_streams();
    };
    parallel_for(blocks * std::ssize(boxes), kElementsPerThread / item_elements + 1, num_threads,
                 body);
  }
}

template <class T>
void backward(const RoiReplayParams& p, int num_threads) {
  using Acc = accumulate_t<T>;
  const int64_t cells = map_height(p) * map_width(p);
  const int64_t block = std::clamp(kMapElements / cells, kSmallestBlock, kChannelBlock);
  const int64_t bins_per_roi = p.output_height * p.output_width;
  // Every cell is written a block of channels at a time: with small pages each write misses the
  // TLB.
  advise_huge_pages(p.tokens, cells * p.token_stride * int64_t{sizeof(T)});
  const int64_t block_elements = (cells + p.num_rois * bins_per_roi) * std::min(block, p.channels);
  const auto body = [&](int64_t begin, int64_t end) {
    BoxTaps<Acc> taps;
    std::vector<int64_t> slot_of_column(static_cast<size_t>(map_width(p)), -1);
    std::vector<Acc> map(static_cast<size_t>(cells * block));  // [T * P, block]
    for (int64_t channel = begin * block; channel < std::min(end * block, p.channels);
         channel += block) {
      const int64_t length = std::min(block, p.channels - channel);
      std::fill(map.begin(), map.end(), Acc{0});
      for (int64_t roi = 0; roi < p.num_rois; ++roi) {
        set_box(p, roi, taps, slot_of_column);
        taps.place([&](int64_t y) { return token_of_row(p, y) * block; },
                   [&](int64_t x) { return token_of_column(p, x) * block; });
        taps.transpose_columns();
        spread_box(taps, static_cast<const T*>(p.bins) + roi * p.box_stride + channel, p.bin_stride,
                   map.data(), length);
      }
      T* token = static_cast<T*>(p.tokens) + channel;
      for (int64_t cell = 0; cell < cells; ++cell, token += p.token_stride) {
        const Acc* sum = &at(map, cell * block);
        const Acc one = 1;
        weighted_sum(token, nullptr, &sum, &one, 1, length);
      }
    }
  };
  parallel_for((p.channels + block - 1) / block, kElementsPerThread / block_elements + 1,
               num_threads, body);
}

// The message of the reference in fastregion/ops/roi_replay.py.
template <class Real>
void refuse_non_finite(const Real* boxes, int64_t num_rois) {
  for (int64_t roi = 0; roi < num_rois; ++roi) {
    const Real* box = boxes + roi * 4;
    check(std::all_of(box, box + 4, [](Real value) { return std::isfinite(value); }),
          "roi_replay: boxes must be finite, got [", box[0], ", ", box[1], ", ", box[2], ", ",
          box[3], "] in row ", roi);
  }
}

}  // namespace

void roi_replay(const RoiReplayParams& params, int num_threads) {
  dispatch_float(params.dtype, "roi_replay", [&](auto tag) {
    using T = typename decltype(tag)::type;
    refuse_non_finite(static_cast<const accumulate_t<T>*>(params.boxes), params.num_rois);
    if (params.channels > 0) forward<T>(params, num_threads);
  });
}

void roi_replay_backward(const RoiReplayParams& params, int num_threads) {
  if (params.channels == 0) return;  // without boxes the gradient is zeros, written below
  dispatch_float(params.dtype, "roi_replay_backward",
                 [&](auto tag) { backward<typename decltype(tag)::type>(params, num_threads); });
}

}  // namespace fastregion::cpu
