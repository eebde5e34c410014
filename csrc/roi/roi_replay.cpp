// CPU side of roi_replay; the equations are in the header.
//
// The box is separable. Forward, for one box and one block of channels:
//   for every output row i:     row[x]    = sum over <= 4 source rows y of wy[i, y] * F(y, x)
//   for every output column j:  bins[i,j] = sum over <= 4 columns x     of wx[j, x] * row[x]
// so a bin costs 4 multiply-adds a channel instead of 16, plus the shared first step. Only the
// columns that some bin uses are formed. The gradient runs the same two steps backwards.
//
// Traffic: every touched cell once from memory (output rows that follow each other find their
// source rows in the cache), every bin once. Work is split over (box, channel block), the
// gradient's over channel blocks: no two threads write the same place, and the order of every sum
// is fixed.
#include "roi/roi_replay.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "core/rows.h"
#include "roi/bilinear.h"

namespace fastregion::cpu {
namespace {

// Channels per step: 64 columns (16 bins of 4 taps) of 256 floats are 64 KiB, inside the L2 cache.
constexpr int64_t kChannelBlock = 256;
// The gradient keeps the whole map of a channel block in the L2 cache: 1 MiB of floats.
constexpr int64_t kMapElements = 256 * 1024;
constexpr int64_t kSmallestBlock = 64;
// Below this many written elements a second thread costs more than it brings.
constexpr int64_t kElementsPerThread = 32 * 1024;

// A vector's element by a signed index, as all sizes here are signed.
template <class T>
T& at(std::vector<T>& values, int64_t index) {
  return values[static_cast<size_t>(index)];
}

// The taps of one box, in tokens. Columns are renamed to slots 0, 1, ... in the order of first use.
template <class Real>
class BoxTaps {
 public:
  explicit BoxTaps(const RoiReplayParams& params)
      : p_(params), slot_of_column_(static_cast<size_t>(map_width(params)), -1) {}

  std::vector<AxisTaps<Real>> rows;     // [oh]: tokens of source rows
  std::vector<AxisTaps<Real>> columns;  // [ow]: slots
  std::vector<int64_t> slots;           // token of the column behind each slot

  void set_box(int64_t roi) {
    const Real* box = static_cast<const Real*>(p_.boxes) + roi * 4;  // x1, y1, x2, y2
    rows.clear();
    for (int64_t i = 0; i < p_.output_height; ++i) {
      rows.push_back(axis_taps(box[1], box[3], p_.output_height, i, map_height(p_)));
      for (int64_t& cell : rows.back().cell) cell = token_of_row(p_, cell);
    }
    for (const int64_t column : used_columns_) at(slot_of_column_, column) = -1;
    used_columns_.clear();
    slots.clear();
    columns.clear();
    for (int64_t j = 0; j < p_.output_width; ++j) {
      columns.push_back(axis_taps(box[0], box[2], p_.output_width, j, map_width(p_)));
      AxisTaps<Real>& taps = columns.back();
      for (int k = 0; k < taps.count; ++k) taps.cell[k] = slot_of(taps.cell[k]);
    }
  }

 private:
  int64_t slot_of(int64_t column) {
    int64_t& slot = at(slot_of_column_, column);
    if (slot < 0) {
      slot = std::ssize(slots);
      slots.push_back(token_of_column(p_, column));
      used_columns_.push_back(column);
    }
    return slot;
  }

  const RoiReplayParams& p_;
  std::vector<int64_t> slot_of_column_;  // -1 where the box has no tap
  std::vector<int64_t> used_columns_;
};

template <class T>
void forward(const RoiReplayParams& p, int num_threads) {
  using Acc = accumulate_t<T>;
  const int64_t bins_per_roi = p.output_height * p.output_width;
  const int64_t blocks = (p.channels + kChannelBlock - 1) / kChannelBlock;
  const int64_t item_elements = bins_per_roi * std::min(p.channels, kChannelBlock);
  const auto body = [&](int64_t begin, int64_t end) {
    BoxTaps<Acc> taps(p);
    std::vector<Acc> row;  // [slots, kChannelBlock]
    for (int64_t item = begin; item < end; ++item) {
      const int64_t roi = item / blocks;
      const int64_t channel = item % blocks * kChannelBlock;
      const int64_t length = std::min(kChannelBlock, p.channels - channel);
      if (item == begin || channel == 0) taps.set_box(roi);
      row.resize(taps.slots.size() * kChannelBlock);
      const T* tokens = static_cast<const T*>(p.tokens) + channel;
      T* bin = static_cast<T*>(p.bins) + roi * bins_per_roi * p.bin_stride + channel;
      for (const AxisTaps<Acc>& rows : taps.rows) {
        for (int64_t slot = 0; slot < std::ssize(taps.slots); ++slot) {
          const T* cells[kTapsPerBin];
          for (int k = 0; k < rows.count; ++k) {
            cells[k] = tokens + (rows.cell[k] + at(taps.slots, slot)) * p.token_stride;
          }
          weighted_sum(&at(row, slot * kChannelBlock), nullptr, cells, rows.weight, rows.count,
                       length);
        }
        for (const AxisTaps<Acc>& columns : taps.columns) {
          const Acc* terms[kTapsPerBin];
          for (int k = 0; k < columns.count; ++k) {
            terms[k] = &at(row, columns.cell[k] * kChannelBlock);
          }
          weighted_sum(bin, nullptr, terms, columns.weight, columns.count, length);
          bin += p.bin_stride;
        }
      }
    }
  };
  parallel_for(p.num_rois * blocks, kElementsPerThread / item_elements + 1, num_threads, body);
}

// The bins of an output row that use one column, with their weights.
template <class Real>
struct ColumnBins {
  std::vector<int64_t> bin;
  std::vector<Real> weight;
};

template <class Real>
void transpose_columns(const BoxTaps<Real>& taps, std::vector<ColumnBins<Real>>& columns) {
  columns.resize(std::max(columns.size(), taps.slots.size()));
  for (auto& [bin, weight] : columns) {
    bin.clear();
    weight.clear();
  }
  for (int64_t j = 0; j < std::ssize(taps.columns); ++j) {
    const AxisTaps<Real>& bin = taps.columns[static_cast<size_t>(j)];
    for (int k = 0; k < bin.count; ++k) {
      at(columns, bin.cell[k]).bin.push_back(j);
      at(columns, bin.cell[k]).weight.push_back(bin.weight[k]);
    }
  }
}

// For one block of channels and all boxes in turn: the bins of an output row that use a column are
// gathered into one sum, which is added to the <= 4 source rows of the map.
template <class T>
void backward(const RoiReplayParams& p, int num_threads) {
  using Acc = accumulate_t<T>;
  const int64_t cells = map_height(p) * map_width(p);
  const int64_t block = std::clamp(kMapElements / cells, kSmallestBlock, kChannelBlock);
  const int64_t bins_per_roi = p.output_height * p.output_width;
  const int64_t block_elements = (cells + p.num_rois * bins_per_roi) * std::min(block, p.channels);
  const auto body = [&](int64_t begin, int64_t end) {
    BoxTaps<Acc> taps(p);
    std::vector<ColumnBins<Acc>> columns;  // [slots]
    std::vector<const T*> bins(static_cast<size_t>(p.output_width));
    std::vector<Acc> column(static_cast<size_t>(block));
    std::vector<Acc> map(static_cast<size_t>(cells * block));  // [T * P, block]
    for (int64_t channel = begin * block; channel < std::min(end * block, p.channels);
         channel += block) {
      const int64_t length = std::min(block, p.channels - channel);
      std::fill(map.begin(), map.end(), Acc{0});
      const T* bin = static_cast<const T*>(p.bins) + channel;
      for (int64_t roi = 0; roi < p.num_rois; ++roi) {
        taps.set_box(roi);
        transpose_columns(taps, columns);
        for (const AxisTaps<Acc>& rows : taps.rows) {
          for (int64_t slot = 0; slot < std::ssize(taps.slots); ++slot) {
            const auto& [used, weight] = at(columns, slot);
            for (size_t k = 0; k < used.size(); ++k) bins[k] = bin + used[k] * p.bin_stride;
            weighted_sum(column.data(), nullptr, bins.data(), weight.data(), std::ssize(used),
                         length);
            for (int k = 0; k < rows.count; ++k) {
              Acc* cell = &at(map, (rows.cell[k] + at(taps.slots, slot)) * block);
              const Acc* term = column.data();
              weighted_sum(cell, cell, &term, &rows.weight[k], 1, length);
            }
          }
          bin += p.output_width * p.bin_stride;
        }
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
