// CPU side of mask_encode's convolutions over all positions, and their gradient; the equations are
// in mask_encode.h, one row of positions is in feature_rows.h.
//
// Gradient, with g = grad * (f > 0) and, per row of positions y,
//   conv2_weight[n, m, i, j] += sum over x of g[n, x] * h[m] at tap (i, j)
//   dh[m] at tap (i, j)      += conv2_weight[n, m, i, j] * g[n, x]
// a row of h is complete after two rows of positions: then, with gh = dh * (h > 0),
//   conv1_weight[m, k, j] += sum over x of gh[m, x] * pixels at tap (k, j).
//
// Work is split over tiles; each tile sums by itself and the sums are added in the order of the
// tiles, so the result does not depend on the threads.
#include <vector>

#include "core/isa.h"
#include "core/parallel.h"
#include "core/sizes.h"
#include "masks/feature_rows.h"
#include "masks/mask_encode.h"

#define FASTREGION_ISA_SOURCE "masks/mask_encode.inc"
#include "core/for_each_isa.h"

namespace fastregion::cpu {
namespace {

constexpr int64_t kTaps = 3;

template <class T>
void forward(const MaskEncodeParams& p, T* features, int num_threads) {
  using Acc = accumulate_t<T>;
  const int64_t columns = quarter_size(p.width);
  parallel_for(p.num_tiles, 1, num_threads, [&](int64_t begin, int64_t end) {
    FeatureRows<Acc> row(p, TypeTag<T>{});
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t y = 0; y < row.rows(); ++y) {
        row.set_row(p.tiles + t * p.height * p.width, y, 0, columns);
        for (int64_t n = 0; n < p.tokens; ++n) {
          T* out = features + ((t * p.tokens + n) * row.rows() + y) * columns;
          std::transform(row.features(n), row.features(n) + columns, out,
                         [](Acc value) { return from_float<T>(value); });
        }
      }
    }
  });
}

// The gradients of one tile. Arrays over x have a margin of zeros on both sides, so that they can
// be read shifted by one and in whole vectors.
template <class Acc>
class TileGradient {
 public:
  explicit TileGradient(const MaskEncodeParams& p)
      : conv1_weight(static_cast<size_t>(p.hidden * kTaps * kTaps)),
        conv1_bias(static_cast<size_t>(p.hidden)),
        conv2_weight(static_cast<size_t>(p.tokens * p.hidden * kTaps * kTaps)),
        conv2_bias(static_cast<size_t>(p.tokens)),
        p_(p),
        columns_(quarter_size(p.width)),
        stride_(round_up(columns_, kSumLanes) + 2 * kSumLanes) {}

  template <class T>
  void add_tile(FeatureRows<Acc>& row, const uint8_t* tile, const T* grad) {
    const int64_t step = p_.hidden * 2 * stride_;
    masked_.assign(static_cast<size_t>(p_.tokens * stride_), Acc{0});
    hidden_.assign(static_cast<size_t>(kTaps * step), Acc{0});
    conv1_sums_.assign(conv1_weight.size() * kSumLanes, Acc{0});
    conv2_sums_.assign(conv2_weight.size() * kSumLanes, Acc{0});
    arrange_weights(row.conv2_weight());
    for (int64_t y = 0; y < row.rows(); ++y) {
      row.set_row(tile, y, 0, columns_);
      for (int64_t n = 0; n < p_.tokens; ++n) {
        mask_grad(row.features(n), grad + (n * row.rows() + y) * columns_, n);
      }
      add_positions(row, y);
      // Rows 2y - 1 and 2y of h have met all that read them; 2y + 1 is the next row's first,
      // unless there is no next row.
      const int64_t complete = y + 1 < row.rows() ? 2 : 3;
      for (int64_t i = 0; i < complete; ++i) {
        if (row.has_hidden_row(y, i)) add_hidden_row(row, i);
      }
      std::copy_n(hidden_.begin() + 2 * step, step, hidden_.begin());
      std::fill(hidden_.begin() + step, hidden_.end(), Acc{0});
    }
    store_sums();
  }

  std::vector<Acc> conv1_weight, conv1_bias, conv2_weight, conv2_bias;

 private:
  // g of token n, as an array over x.
  Acc* masked(int64_t n) { return masked_.data() + n * stride_ + kSumLanes; }

  // dh[m] of tap row i, columns 2x + odd, as an array over x.
  Acc* hidden(int64_t m, int64_t i, int64_t odd) {
    return hidden_.data() + ((i * p_.hidden + m) * 2 + odd) * stride_ + kSumLanes;
  }

  // Even columns of h are read at tap j = 1; odd ones at j = 2, and at j = 0 one position later.
  void arrange_weights(const std::vector<Acc>& weight) {
    even_.clear();
    odd_.clear();
    for (int64_t m = 0; m < p_.hidden; ++m) {
      for (int64_t i = 0; i < kTaps; ++i) {
        for (int64_t n = 0; n < p_.tokens; ++n) {
          const auto tap = static_cast<size_t>(((n * p_.hidden + m) * kTaps + i) * kTaps);
          even_.push_back(weight[tap + 1]);
          odd_.push_back(weight[tap + 2]);
          odd_.push_back(weight[tap]);
        }
      }
    }
  }

  template <class T>
  void mask_grad(const Acc* features, const T* grad, int64_t n) {
    Acc* out = masked(n);
    Acc sum = 0;
    for (int64_t x = 0; x < columns_; ++x) {
      out[x] = features[x] > 0 ? Acc{to_float(grad[x])} : Acc{0};
      sum += out[x];
    }
    conv2_bias[static_cast<size_t>(n)] += sum;
  }

  void add_positions(const FeatureRows<Acc>& row, int64_t y) {
    std::vector<const Acc*> same, shifted;
    for (int64_t n = 0; n < p_.tokens; ++n) {
      same.push_back(masked(n));
      shifted.push_back(masked(n) - 1);
      shifted.push_back(masked(n));
    }
    Acc* sums = conv2_sums_.data();
    for (int64_t m = 0; m < p_.hidden; ++m) {
      for (int64_t i = 0; i < kTaps; ++i) {
        for (int64_t j = 0; j < kTaps; ++j, sums += p_.tokens * kSumLanes) {
          FASTREGION_SELECT_ISA(add_products<Acc>)(sums, masked(0), stride_, p_.tokens,
                                                   row.hidden_tap(y, m, i, j),
                                                   round_up(columns_, kSumLanes));
        }
        const int64_t weights = (m * kTaps + i) * p_.tokens;
        Acc* even = hidden(m, i, 0);
        Acc* odd = hidden(m, i, 1) - 1;
        weighted_sum(even, even, same.data(), even_.data() + weights, p_.tokens, columns_);
        weighted_sum(odd, odd, shifted.data(), odd_.data() + 2 * weights, 2 * p_.tokens,
                     columns_ + 1);
      }
    }
  }

  void add_hidden_row(const FeatureRows<Acc>& row, int64_t i) {
    for (int64_t odd = 0; odd < 2; ++odd) {
      for (int64_t m = 0; m < p_.hidden; ++m) {
        Acc* grad = hidden(m, i, odd);
        const Acc* value = row.hidden(m, i, odd);  // 0 past the last column, so no gradient
        Acc sum = 0;
        for (int64_t x = 0; x < columns_; ++x) {
          grad[x] = value[x] > 0 ? grad[x] : Acc{0};
          sum += grad[x];
        }
        conv1_bias[static_cast<size_t>(m)] += sum;
      }
      Acc* sums = conv1_sums_.data();
      for (int64_t k = 0; k < kTaps; ++k) {
        for (int64_t j = 0; j < kTaps; ++j, sums += p_.hidden * kSumLanes) {
          FASTREGION_SELECT_ISA(add_products<Acc>)(sums, hidden(0, i, odd), 2 * stride_, p_.hidden,
                                                   row.pixel_tap(i, odd, k, j),
                                                   round_up(columns_, kSumLanes));
        }
      }
    }
  }

  // Adds up the lanes: conv1_sums_ is [k, j, M, lanes], conv2_sums_ [M, i, j, N, lanes].
  void store_sums() {
    const auto lanes = [](const std::vector<Acc>& sums, int64_t number) {
      const Acc* from = sums.data() + number * kSumLanes;
      Acc sum = 0;
      for (int64_t lane = 0; lane < kSumLanes; ++lane) sum += from[lane];
      return sum;
    };
    constexpr int64_t kSquare = kTaps * kTaps;
    for (int64_t m = 0; m < p_.hidden; ++m) {
      for (int64_t tap = 0; tap < kSquare; ++tap) {
        conv1_weight[static_cast<size_t>(m * kSquare + tap)] =
            lanes(conv1_sums_, tap * p_.hidden + m);
        for (int64_t n = 0; n < p_.tokens; ++n) {
          conv2_weight[static_cast<size_t>((n * p_.hidden + m) * kSquare + tap)] =
              lanes(conv2_sums_, (m * kSquare + tap) * p_.tokens + n);
        }
      }
    }
  }

  const MaskEncodeParams& p_;
  int64_t columns_, stride_;
  std::vector<Acc> even_, odd_;               // [M, i, N], [M, i, N, 2]: weights
  std::vector<Acc> masked_;                   // [N, stride]: g
  std::vector<Acc> hidden_;                   // [i, M, 2, stride]: dh
  std::vector<Acc> conv1_sums_, conv2_sums_;  // by lanes
};

template <class T, class Acc>
void add_tiles(const std::vector<TileGradient<Acc>>& tiles,
               std::vector<Acc> TileGradient<Acc>::* parameter, void* out) {
  if (tiles.empty()) return;
  std::vector<Acc> sums = tiles.front().*parameter;
  for (size_t t = 1; t < tiles.size(); ++t) {
    const std::vector<Acc>& more = tiles[t].*parameter;
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += more[i];
  }
  std::transform(sums.begin(), sums.end(), static_cast<T*>(out),
                 [](Acc value) { return from_float<T>(value); });
}

template <class T>
void backward(const MaskEncodeParams& p, const T* grad, void* conv1_weight, void* conv1_bias,
              void* conv2_weight, void* conv2_bias, int num_threads) {
  using Acc = accumulate_t<T>;
  // At least one, so that without tiles the gradients are zeros.
  std::vector<TileGradient<Acc>> tiles(static_cast<size_t>(std::max<int64_t>(p.num_tiles, 1)),
                                       TileGradient<Acc>(p));
  parallel_for(p.num_tiles, 1, num_threads, [&](int64_t begin, int64_t end) {
    FeatureRows<Acc> row(p, TypeTag<T>{});
    for (int64_t t = begin; t < end; ++t) {
      tiles[static_cast<size_t>(t)].add_tile(row, p.tiles + t * p.height * p.width,
                                             grad + t * p.tokens * num_positions(p));
    }
  });
  add_tiles<T>(tiles, &TileGradient<Acc>::conv1_weight, conv1_weight);
  add_tiles<T>(tiles, &TileGradient<Acc>::conv1_bias, conv1_bias);
  add_tiles<T>(tiles, &TileGradient<Acc>::conv2_weight, conv2_weight);
  add_tiles<T>(tiles, &TileGradient<Acc>::conv2_bias, conv2_bias);
}

}  // namespace

void mask_features(const MaskEncodeParams& params, void* features, int num_threads) {
  dispatch_float(params.dtype, "mask_encode", [&](auto tag) {
    forward(params, static_cast<typename decltype(tag)::type*>(features), num_threads);
  });
}

void mask_features_backward(const MaskEncodeParams& params, const void* grad, void* conv1_weight,
                            void* conv1_bias, void* conv2_weight, void* conv2_bias,
                            int num_threads) {
  dispatch_float(params.dtype, "mask_encode_backward", [&](auto tag) {
    backward(params, static_cast<const typename decltype(tag)::type*>(grad), conv1_weight,
             conv1_bias, conv2_weight, conv2_bias, num_threads);
  });
}

}  // namespace fastregion::cpu
