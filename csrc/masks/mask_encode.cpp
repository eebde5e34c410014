// CPU side of mask_encode, forward; the equations are in the header.
//
// 1. A tile is a base plus entries: the positions where its features differ; see mask_entries.h.
// 2. For one block of channels at a time, the rows of the weight that any tile needs are widened
//    to a panel in the cache, and every tile adds its entries from there: one pass over the
//    weight for all tiles.
//
// Traffic: tiles once, touched rows of the weight once, the output once. Arithmetic: N * C
// multiply-adds for an entry. Work is split over tiles, then over channels: no two threads write
// the same place, and the order of every sum is fixed.
#include "masks/mask_encode.h"

#include <vector>

#include "core/isa.h"
#include "core/parallel.h"
#include "core/rows.h"
#include "core/sizes.h"
#include "masks/mask_entries.h"

#define FASTREGION_ISA_SOURCE "masks/mask_encode.inc"
#include "core/for_each_isa.h"

namespace fastregion::cpu {
namespace {

// Channels and weight rows of a panel, and the channels of a strip of it. A position-major weight
// is read by rows of 4 KiB of floats, so that it streams, into a panel within the L2 cache. Of a
// channel-major one, all touched positions of few channels are gathered, right after these channels
// were summed, if they must be. Strips stay in the L1 cache while all tiles use them.
constexpr int64_t kStrip = kEncodeStrip;
constexpr int64_t kStreamedChannels = 1024;
constexpr int64_t kStreamedRows = 128;
// Channels gathered together from rows of the weight: one cache line of floats.
constexpr int64_t kGatherBlock = 16;
constexpr int64_t kCacheLine = 64;
// Rows of a position-major weight that are summed together.
constexpr int64_t kSumRows = 16;
// A second thread pays from this many multiply-adds.
constexpr int64_t kOpsPerThread = 256 * 1024;

// Entries with the rows of the panel in place of positions.
template <class Acc>
struct Terms {
  const Entries<Acc>* entries;
  std::vector<int32_t> rows;         // of the panel
  std::vector<int64_t> panel_begin;  // [panels + 1]: first entry of each panel
};

// Rows of the weight that any of the entries uses, ascending, in panels.
template <class Acc>
class PanelPlan {
 public:
  PanelPlan(int64_t num_positions, bool position_major,
            const std::vector<const Entries<Acc>*>& all) {
    std::vector<int32_t> row_of(static_cast<size_t>(num_positions), -1);
    for (const Entries<Acc>* entries : all) {
      for (const int32_t position : entries->positions) row_of[static_cast<size_t>(position)] = 0;
    }
    for (int64_t position = 0; position < num_positions; ++position) {
      if (row_of[static_cast<size_t>(position)] < 0) continue;
      row_of[static_cast<size_t>(position)] = static_cast<int32_t>(positions_.size());
      positions_.push_back(position);
    }
    if (position_major) {
      rows_ = kStreamedRows;
      channels_ = kStreamedChannels;
    } else {
      rows_ = std::max<int64_t>(std::ssize(positions_), 1);
      channels_ = kStrip;
    }
    for (const Entries<Acc>* entries : all) {
      Terms<Acc> terms{entries, {}, {}};
      for (const int32_t position : entries->positions) {
        const int64_t row = row_of[static_cast<size_t>(position)];
        while (std::ssize(terms.panel_begin) <= row / rows_) {
          terms.panel_begin.push_back(std::ssize(terms.rows));
        }
        terms.rows.push_back(static_cast<int32_t>(row % rows_));
      }
      terms.panel_begin.resize(static_cast<size_t>(num_panels() + 1), std::ssize(terms.rows));
      terms_.push_back(std::move(terms));
    }
  }

  int64_t num_panels() const { return ceil_div(std::ssize(positions_), rows_); }
  int64_t rows() const { return rows_; }          // of a panel
  int64_t channels() const { return channels_; }  // of a panel
  const std::vector<int64_t>& positions() const { return positions_; }
  const std::vector<Terms<Acc>>& terms() const { return terms_; }

 private:
  std::vector<int64_t> positions_;
  std::vector<Terms<Acc>> terms_;
  int64_t rows_ = 0, channels_ = 0;
};

// panel[strip][row][c] = weight[channel + strip * kStrip + c, positions[row]]; channels past
// `length` keep what was there.
template <class T, class Acc>
void fill_panel(const MaskLinearParams& linear, const int64_t* positions, int64_t num_rows,
                int64_t panel_rows, int64_t channel, int64_t length, Acc* panel) {
  const T* weight = static_cast<const T*>(linear.weight) + channel * linear.channel_stride;
  if (linear.channel_stride == 1) {
    const Acc one = 1;
    for (int64_t row = 0; row < num_rows; ++row) {
      const T* from = weight + positions[row] * linear.position_stride;
      // Touched rows are far apart: the next one is called for while this one is widened.
      const T* next = weight + positions[std::min(row + 1, num_rows - 1)] * linear.position_stride;
      Acc* to = panel + row * kStrip;
      for (int64_t c = 0; c < length; c += kStrip, from += kStrip, to += panel_rows * kStrip) {
        for (int64_t i = 0; i < kStrip; i += kCacheLine / int64_t{sizeof(T)}) {
          __builtin_prefetch(next + c + i);
        }
        weighted_sum(to, nullptr, &from, &one, 1, std::min(kStrip, length - c));
      }
    }
    return;
  }
  for (int64_t c = 0; c < length; c += kGatherBlock) {
    const int64_t count = std::min(kGatherBlock, length - c);
    const T* from = weight + c * linear.channel_stride;
    Acc* to = panel + c / kStrip * panel_rows * kStrip + c % kStrip;
    for (int64_t row = 0; row < num_rows; ++row, to += kStrip) {
      const T* column = from + positions[row] * linear.position_stride;
      for (int64_t i = 0; i < count; ++i) to[i] = to_float(column[i * linear.channel_stride]);
    }
  }
}

// sums[c] = sum of weight[channel + c, :], c < length.
template <class T, class Acc>
void sum_positions(const MaskLinearParams& linear, int64_t positions, int64_t channel,
                   int64_t length, Acc* sums) {
  const T* weight = static_cast<const T*>(linear.weight) + channel * linear.channel_stride;
  const std::vector<Acc> ones(static_cast<size_t>(std::max(positions, kSumRows)), Acc{1});
  if (linear.channel_stride == 1) {
    std::fill_n(sums, length, Acc{0});
    const T* rows[kSumRows];
    for (int64_t first = 0; first < positions; first += kSumRows) {
      const int64_t count = std::min(kSumRows, positions - first);
      for (int64_t i = 0; i < count; ++i) rows[i] = weight + (first + i) * linear.position_stride;
      weighted_sum(sums, sums, rows, ones.data(), count, length);
    }
    return;
  }
  // A channel folded to kStrip lanes, if its positions are contiguous, else to one.
  const int64_t lanes = linear.position_stride == 1 ? kStrip : 1;
  const int64_t whole = positions / lanes * lanes;
  std::vector<const T*> rows(static_cast<size_t>(positions / lanes));
  Acc folded[kStrip];
  for (int64_t c = 0; c < length; ++c) {
    const T* row = weight + c * linear.channel_stride;
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i] = row + static_cast<int64_t>(i) * lanes * linear.position_stride;
    }
    weighted_sum(folded, nullptr, rows.data(), ones.data(), std::ssize(rows), lanes);
    Acc sum = 0;
    for (int64_t i = 0; i < lanes; ++i) sum += folded[i];
    for (int64_t i = whole; i < positions; ++i) sum += to_float(row[i * linear.position_stride]);
    sums[c] = sum;
  }
}

// Channels [channel, channel + length) of all tiles.
template <class T, class Acc>
void encode_channels(const MaskEncodeParams& p, const MaskLinearParams& linear,
                     const PanelPlan<Acc>& plan, const std::vector<int>& base_of_tile,
                     const std::vector<Base<Acc>>& bases, int64_t channel, int64_t length,
                     Acc* panel) {
  const int64_t item = p.tokens * plan.channels();
  // [T + bases, N, channels of the panel]: the bases come last
  std::vector<Acc> sums(plan.terms().size() * static_cast<size_t>(item));
  std::vector<Acc> weight_sums(static_cast<size_t>(length));
  if (linear.weight_sums == nullptr) {
    sum_positions<T>(linear, num_positions(p), channel, length, weight_sums.data());
  } else {
    std::copy_n(static_cast<const Acc*>(linear.weight_sums) + channel, length, weight_sums.begin());
  }
  const auto& positions = plan.positions();
  for (int64_t first = 0; first < std::ssize(positions); first += plan.rows()) {
    const int64_t num_rows = std::min(plan.rows(), std::ssize(positions) - first);
    fill_panel<T>(linear, positions.data() + first, num_rows, plan.rows(), channel, length, panel);
    const size_t number = static_cast<size_t>(first / plan.rows());
    for (int64_t c = 0; c < length; c += kStrip) {
      const Acc* strip = panel + c * plan.rows();
      Acc* to = sums.data() + c;
      for (const Terms<Acc>& terms : plan.terms()) {
        const int64_t begin = terms.panel_begin[number];
        FASTREGION_SELECT_ISA(add_strip<Acc>)(to, plan.channels(), strip, terms.rows.data() + begin,
                                              terms.entries->values.data() + begin * p.tokens,
                                              terms.panel_begin[number + 1] - begin, p.tokens);
        to += item;
      }
    }
  }
  const T* bias = static_cast<const T*>(linear.bias) + channel;
  for (int64_t t = 0; t < p.num_tiles; ++t) {
    const int base = base_of_tile[static_cast<size_t>(t)];
    for (int64_t n = 0; n < p.tokens; ++n) {
      const Acc constant = bases[static_cast<size_t>(base)].constant[static_cast<size_t>(n)];
      const Acc* from = sums.data() + t * item + n * plan.channels();
      const Acc* border = sums.data() + (p.num_tiles + base) * item + n * plan.channels();
      T* out = static_cast<T*>(linear.out) + (t * p.tokens + n) * linear.channels + channel;
      for (int64_t c = 0; c < length; ++c) {
        out[c] = from_float<T>(to_float(bias[c]) + constant * weight_sums[static_cast<size_t>(c)] +
                               border[c] + from[c]);
      }
    }
  }
}

std::vector<Outline> make_outlines(const MaskEncodeParams& p) {
  std::vector<Outline> outlines;
  outlines.reserve(static_cast<size_t>(p.num_tiles));
  for (int64_t t = 0; t < p.num_tiles; ++t) {
    outlines.emplace_back(p, p.tiles + t * p.height * p.width);
  }
  return outlines;
}

template <class T>
void encode(const MaskEncodeParams& p, const MaskLinearParams& linear, int num_threads) {
  using Acc = accumulate_t<T>;
  const TypeTag<T> tag;
  const std::vector<Outline> outlines = make_outlines(p);
  std::vector<int> base_of_tile;
  bool used[kBases] = {};
  for (const Outline& outline : outlines) {
    base_of_tile.push_back(outline.base());
    used[outline.base()] = true;
  }
  std::vector<Base<Acc>> bases(kBases);
  for (int b = 0; b < kBases; ++b) {
    if (used[b]) bases[static_cast<size_t>(b)] = make_base<T, Acc>(p, b == 0 ? 0 : p.full, tag);
  }
  std::vector<Entries<Acc>> entries(outlines.size());
  const int64_t tile_ops = num_positions(p) * p.tokens;
  parallel_for(p.num_tiles, kOpsPerThread / (tile_ops + 1) + 1, num_threads,
               [&](int64_t begin, int64_t end) {
                 FeatureRows<Acc> features(p, tag);
                 for (int64_t t = begin; t < end; ++t) {
                   const auto i = static_cast<size_t>(t);
                   entries[i] =
                       tile_entries(p, features, p.tiles + t * p.height * p.width, outlines[i],
                                    bases[static_cast<size_t>(base_of_tile[i])]);
                 }
               });
  std::vector<const Entries<Acc>*> all;
  int64_t num_entries = 0;
  for (const Entries<Acc>& tile : entries) all.push_back(&tile);
  for (const Base<Acc>& base : bases) all.push_back(&base.border);
  for (const Entries<Acc>* list : all) num_entries += std::ssize(list->positions);
  const PanelPlan<Acc> plan(num_positions(p), linear.channel_stride == 1, all);
  const int64_t block = plan.channels();
  const int64_t block_ops = (num_entries * p.tokens + 1) * block;
  parallel_for(ceil_div(linear.channels, block), kOpsPerThread / block_ops + 1, num_threads,
               [&](int64_t begin, int64_t end) {
                 std::vector<Acc> panel(static_cast<size_t>(plan.rows() * block));
                 for (int64_t channel = begin * block;
                      channel < std::min(end * block, linear.channels); channel += block) {
                   encode_channels<T>(p, linear, plan, base_of_tile, bases, channel,
                                      std::min(block, linear.channels - channel), panel.data());
                 }
               });
}

}  // namespace

double mask_encode_share(const MaskEncodeParams& p) {
  int64_t count = 0;
  for (const Outline& outline : make_outlines(p)) count += outline.count();
  const int64_t total = p.num_tiles * num_positions(p);
  return total == 0 ? 0 : static_cast<double>(count) / static_cast<double>(total);
}

void mask_encode(const MaskEncodeParams& params, const MaskLinearParams& linear, int num_threads) {
  if (params.num_tiles == 0 || params.tokens == 0 || linear.channels == 0) return;
  dispatch_float(params.dtype, "mask_encode", [&](auto tag) {
    encode<typename decltype(tag)::type>(params, linear, num_threads);
  });
}

}  // namespace fastregion::cpu
