// CPU side of roi_align; the equations are in the header, the two steps in pool_box.h.
//
// Those steps want the channels contiguous. A channels-last map is read where it is. From planes, a
// window of the map is first turned into rows of a block of channels: one window for all boxes of
// an image where they cover it more than once, else one for each box. 64 floats a row keep a map of
// 50 x 50 in the L2 cache, and turning costs less than a third of a cycle an element. The bins of a
// block are turned back into planes, which are contiguous in the result.
//
// Traffic: the window once, every bin once. Work is split over (channel block, box), the
// gradient's over (image, channel block): no two threads write the same place, and the order of
// every sum is fixed.
#include "roi/roi_align.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "core/huge_pages.h"
#include "core/parallel.h"
#include "roi/box_taps.h"
#include "roi/pool_box.h"

namespace fastregion::cpu {
namespace {

constexpr int64_t kBlock = 64;                     // channels at a time; 4 vectors of AVX-512
constexpr int64_t kSmallestBlock = 16;             // for large maps
constexpr int64_t kMapElements = 256 * 1024;       // of a turned map: 1 MiB, the L2 cache
constexpr int64_t kTurnWidth = 16;                 // columns worth turning at once
constexpr int64_t kBoxesPerChunk = 256;            // whose taps are kept at a time
constexpr int64_t kElementsPerThread = 32 * 1024;  // below, a second thread costs more

// The part of a map that is turned: these rows (ascending), columns [left, right).
struct Window {
  std::vector<int64_t> rows;
  int64_t left = 0, right = 0;

  int64_t width() const { return right - left; }
  int64_t cells() const { return std::ssize(rows) * width(); }
  int64_t index_of(int64_t row) const { return std::ranges::lower_bound(rows, row) - rows.begin(); }
};

template <class Real>
struct Box {
  int64_t roi = 0, image = 0;
  Window own;
  const Window* window = nullptr;  // `own`, or one shared with other boxes
  BoxTaps<Real> taps;
};

template <class Real>
const Real* roi_of(const RoiAlignParams& p, int64_t roi) {
  return static_cast<const Real*>(p.rois) + roi * 5;  // batch index, x1, y1, x2, y2
}

// The cells that a box reads, widened to what can be turned in whole vectors.
template <class Real>
void set_window(const RoiAlignParams& p, const BoxTaps<Real>& taps, Window& window) {
  window = {};
  if (taps.rows.cell.empty() || taps.slots.empty()) return;
  window.rows = taps.rows.cell;
  std::ranges::sort(window.rows);
  window.rows.erase(std::unique(window.rows.begin(), window.rows.end()), window.rows.end());
  const auto [left, right] = std::ranges::minmax(taps.slots);
  window.left = std::clamp<int64_t>(left, 0, std::max<int64_t>(p.width - kTurnWidth, 0));
  window.right = std::max(right + 1, std::min(window.left + kTurnWidth, p.width));
}

// Taps, as rows and columns of the map, of the boxes order[first], order[first + 1], ...
template <class Real>
void set_boxes(const RoiAlignParams& p, const std::vector<int64_t>& order, int64_t first,
               int64_t count, std::vector<Box<Real>>& boxes, int num_threads) {
  boxes.resize(static_cast<size_t>(count));
  parallel_for(count, 16, num_threads, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> slot_of_column(static_cast<size_t>(p.width), -1);
    const auto axis = [&](Real low, Real high, int64_t bins, int64_t cells) {
      return align_axis(low, high, static_cast<Real>(p.spatial_scale), p.aligned, p.sampling_ratio,
                        bins, cells);
    };
    for (int64_t k = begin; k < end; ++k) {
      Box<Real>& box = at(boxes, k);
      box.roi = at(order, first + k);
      const Real* roi = roi_of<Real>(p, box.roi);
      box.image = static_cast<int64_t>(roi[0]);
      box.taps.set(axis(roi[2], roi[4], p.output_height, p.height), p.output_height,
                   axis(roi[1], roi[3], p.output_width, p.width), p.output_width, slot_of_column);
      set_window(p, box.taps, box.own);
      box.window = &box.own;
    }
  });
}

// Gives the boxes of an image one window where that is less than the sum of their own. Returns the
// windows that this makes.
template <class Real>
std::deque<Window> share_windows(const RoiAlignParams& p, std::vector<Box<Real>>& boxes) {
  std::deque<Window> shared;
  std::vector<char> is_read(static_cast<size_t>(p.height));
  for (auto begin = boxes.begin(); begin != boxes.end();) {
    const auto end = std::find_if(begin, boxes.end(),
                                  [&](const Box<Real>& box) { return box.image != begin->image; });
    Window all{.rows = {}, .left = p.width, .right = 0};
    int64_t sum = 0;
    std::ranges::fill(is_read, 0);
    for (auto box = begin; box != end; ++box) {
      if (box->own.rows.empty()) continue;
      sum += box->own.cells();
      all.left = std::min(all.left, box->own.left);
      all.right = std::max(all.right, box->own.right);
      for (const int64_t row : box->own.rows) at(is_read, row) = 1;
    }
    for (int64_t row = 0; row < p.height; ++row) {
      if (at(is_read, row)) all.rows.push_back(row);
    }
    if (all.cells() <= sum) {
      shared.push_back(std::move(all));
      std::for_each(begin, end, [&](Box<Real>& box) { box.window = &shared.back(); });
    }
    begin = end;
  }
  return shared;
}

// Channels of a block for which a turned map of so many cells stays in the cache.
int64_t block_for(int64_t cells) {
  const int64_t block = kMapElements / std::max<int64_t>(cells, 1);
  return std::clamp(block / kSmallestBlock * kSmallestBlock, kSmallestBlock, kBlock);
}

// Turns a window of `channels` planes, the first at `planes`, to rows of `block` channels.
template <class T>
void turn(const RoiAlignParams& p, const T* planes, const Window& window, int64_t channels,
          int64_t block, std::vector<accumulate_t<T>>& rows) {
  rows.resize(std::max(rows.size(), static_cast<size_t>(window.cells() * block)));
  const bool whole = window.width() == p.row_stride;  // rows may follow each other in memory
  accumulate_t<T>* to = rows.data();
  for (auto row = window.rows.begin(); row != window.rows.end();) {
    auto end = row + 1;
    while (whole && end != window.rows.end() && *end == *row + (end - row)) ++end;
    const int64_t count = (end - row) * window.width();
    planes_to_rows(planes + *row * p.row_stride + window.left, p.channel_stride, to, block,
                   channels, count);
    to += count * block;
    row = end;
  }
}

template <class T>
void forward(const RoiAlignParams& p, const std::vector<int64_t>& order, int num_threads) {
  using Acc = accumulate_t<T>;
  const bool channels_last = p.channel_stride == 1 && p.column_stride != 1;
  const int64_t bins = p.output_height * p.output_width;
  std::vector<Box<Acc>> boxes;
  for (int64_t first = 0; first < p.num_rois; first += std::ssize(boxes)) {
    set_boxes(p, order, first, std::min(kBoxesPerChunk, p.num_rois - first), boxes, num_threads);
    std::deque<Window> shared;
    if (!channels_last) shared = share_windows(p, boxes);
    int64_t cells = 0;
    for (const Box<Acc>& box : boxes) cells = std::max(cells, box.window->cells());
    const int64_t block = channels_last ? kBlock : block_for(cells);
    for (Box<Acc>& box : boxes) {
      const Window& window = *box.window;
      if (channels_last) {
        box.taps.place([&](int64_t y) { return y * p.row_stride; },
                       [&](int64_t x) { return x * p.column_stride; });
      } else {
        box.taps.place([&](int64_t y) { return window.index_of(y) * window.width() * block; },
                       [&](int64_t x) { return (x - window.left) * block; });
      }
    }
    const auto body = [&](int64_t begin, int64_t end) {
      std::vector<Acc> map, row, pooled(static_cast<size_t>(bins * block));
      const T* turned = nullptr;
      const Window* window = nullptr;
      for (int64_t item = begin; item < end; ++item) {
        const Box<Acc>& box = at(boxes, item % std::ssize(boxes));
        const int64_t channel = item / std::ssize(boxes) * block;
        const int64_t length = std::min(block, p.channels - channel);
        const T* input = static_cast<const T*>(p.input) + box.image * p.batch_stride +
                         channel * p.channel_stride;
        row.resize(std::max(row.size(), box.taps.slots.size() * static_cast<size_t>(block)));
        if (channels_last) {
          pool_box(box.taps, input, row.data(), pooled.data(), block, length, false);
        } else {
          if (turned != input || window != box.window) {
            turn(p, input, *box.window, length, block, map);
            turned = input;
            window = box.window;
          }
          pool_box(box.taps, map.data(), row.data(), pooled.data(), block, length, false);
        }
        rows_to_planes(pooled.data(), block,
                       static_cast<T*>(p.bins) + (box.roi * p.channels + channel) * bins, bins,
                       length, bins);
      }
    };
    const int64_t blocks = (p.channels + block - 1) / block;
    parallel_for(blocks * std::ssize(boxes), kElementsPerThread / (bins * block) + 1, num_threads,
                 body);
  }
}

// For each image, the smallest rectangle that holds the cells of all its boxes.
template <class Real>
std::vector<Window> windows_of_images(const RoiAlignParams& p, const std::vector<int64_t>& order,
                                      int num_threads) {
  const Window none{.rows = {}, .left = p.width, .right = 0};
  std::vector<Window> windows(static_cast<size_t>(p.num_images), none);
  std::vector<Box<Real>> boxes;
  for (int64_t first = 0; first < p.num_rois; first += std::ssize(boxes)) {
    set_boxes(p, order, first, std::min(kBoxesPerChunk, p.num_rois - first), boxes, num_threads);
    for (const Box<Real>& box : boxes) {
      if (box.own.rows.empty()) continue;
      Window& window = at(windows, box.image);
      window.left = std::min(window.left, box.own.left);
      window.right = std::max(window.right, box.own.right);
      window.rows.push_back(box.own.rows.front());
      window.rows.push_back(box.own.rows.back());
    }
  }
  for (Window& window : windows) {
    if (window.rows.empty()) continue;
    const auto [top, bottom] = std::ranges::minmax(window.rows);
    window.rows.resize(static_cast<size_t>(bottom - top + 1));
    std::iota(window.rows.begin(), window.rows.end(), top);
  }
  return windows;
}

// Writes the planes of an image: the rows of `map` inside the window, zeros outside.
template <class T>
void write_planes(const RoiAlignParams& p, const accumulate_t<T>* map, const Window& window,
                  T* planes, int64_t channels, int64_t block) {
  const int64_t cells = p.height * p.width;
  if (window.cells() == cells) {
    rows_to_planes(map, block, planes, cells, channels, cells);
    return;
  }
  std::fill_n(planes, channels * cells, from_float<T>(0));
  for (const int64_t row : window.rows) {
    rows_to_planes(map, block, planes + row * p.width + window.left, cells, channels,
                   window.width());
    map += window.width() * block;
  }
}

template <class T>
void backward(const RoiAlignParams& p, const std::vector<int64_t>& order, int num_threads) {
  using Acc = accumulate_t<T>;
  const int64_t bins = p.output_height * p.output_width;
  const int64_t cells = p.height * p.width;
  const std::vector<Window> windows = windows_of_images<Acc>(p, order, num_threads);
  advise_huge_pages(p.input, p.num_images * p.channels * cells * int64_t{sizeof(T)});
  int64_t largest = 0;
  for (const Window& window : windows) {
    if (!window.rows.empty()) largest = std::max(largest, window.cells());
  }
  const int64_t block = block_for(largest);
  const int64_t blocks = (p.channels + block - 1) / block;
  const auto image_of = [&](int64_t roi) { return static_cast<int64_t>(*roi_of<Acc>(p, roi)); };
  const auto body = [&](int64_t begin, int64_t end) {
    std::vector<Acc> map(static_cast<size_t>(largest * block));  // [window cells, block]
    std::vector<Acc> grad(static_cast<size_t>(bins * block));    // [oh * ow, block]
    std::vector<Box<Acc>> boxes;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t image = item / blocks;
      const int64_t channel = item % blocks * block;
      const int64_t length = std::min(block, p.channels - channel);
      const Window& window = at(windows, image);
      T* planes = static_cast<T*>(p.input) + (image * p.channels + channel) * cells;
      if (window.rows.empty()) {
        std::fill_n(planes, length * cells, from_float<T>(0));
        continue;
      }
      const int64_t top = window.rows.front();
      std::fill_n(map.begin(), window.cells() * block, Acc{0});
      const auto first = std::ranges::lower_bound(order, image, {}, image_of);
      const auto last = std::ranges::upper_bound(order, image, {}, image_of);
      for (int64_t k = first - order.begin(); k < last - order.begin(); k += std::ssize(boxes)) {
        set_boxes(p, order, k, std::min(kBoxesPerChunk, last - order.begin() - k), boxes, 1);
        for (Box<Acc>& box : boxes) {
          box.taps.place([&](int64_t y) { return (y - top) * window.width() * block; },
                         [&](int64_t x) { return (x - window.left) * block; });
          box.taps.transpose_columns();
          planes_to_rows(static_cast<const T*>(p.bins) + (box.roi * p.channels + channel) * bins,
                         bins, grad.data(), block, length, bins);
          spread_box(box.taps, grad.data(), block, map.data(), length);
        }
      }
      write_planes(p, map.data(), window, planes, length, block);
    }
  };
  const int64_t item_elements = (cells + p.num_rois * bins / p.num_images) * block;
  parallel_for(p.num_images * blocks, kElementsPerThread / item_elements + 1, num_threads, body);
}

// The messages of the reference in fastregion/ops/roi_align.py.
template <class Real>
void check_rois(const RoiAlignParams& p) {
  for (int64_t row = 0; row < p.num_rois; ++row) {
    const Real* roi = roi_of<Real>(p, row);
    check(std::all_of(roi, roi + 5, [](Real value) { return std::isfinite(value); }),
          "roi_align: boxes must be finite, got [", roi[0], ", ", roi[1], ", ", roi[2], ", ",
          roi[3], ", ", roi[4], "] in row ", row);
    check(roi[0] >= 0 && roi[0] < static_cast<Real>(p.num_images) && roi[0] == std::trunc(roi[0]),
          "roi_align: the batch index of a box must be an integer below ", p.num_images, ", got ",
          roi[0], " in row ", row);
  }
}

// All boxes, those of one image together and otherwise in the order given.
template <class Real>
std::vector<int64_t> order_by_image(const RoiAlignParams& p) {
  std::vector<int64_t> order(static_cast<size_t>(p.num_rois));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](int64_t roi) { return *roi_of<Real>(p, roi); });
  return order;
}

}  // namespace

void roi_align(const RoiAlignParams& params, int num_threads) {
  dispatch_float(params.dtype, "roi_align", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    check_rois<Acc>(params);
    if (params.channels > 0) forward<T>(params, order_by_image<Acc>(params), num_threads);
  });
}

void roi_align_backward(const RoiAlignParams& params, int num_threads) {
  if (params.num_images == 0 || params.channels == 0) return;
  dispatch_float(params.dtype, "roi_align_backward", [&](auto tag) {
    using T = typename decltype(tag)::type;
    backward<T>(params, order_by_image<accumulate_t<T>>(params), num_threads);
  });
}

}  // namespace fastregion::cpu
