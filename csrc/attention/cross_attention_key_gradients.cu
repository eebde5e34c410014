// dk, dv and, head by head, dbias of cross_attention; the equations are in cross_attention.h.
//
// A block keeps the keys and values of one tile and key-value head, 16 rows a warp, and streams the
// queries that see them and their gradients, head after head of the group. The products are made
// with keys as rows, S^T = k q^T and dP^T = v dout^T, so that P^T and dS^T lie in registers as the
// left operands of dv = P^T dout and dk = dS^T q.
//   traffic  k, v, dk and dv once; q and dout once for each tile of keys
//   work     8 * queries * keys * width flops a head
#include "attention/cross_attention_backward.h"

namespace fastregion::cuda {
namespace {

template <class T, int kWidth>
struct KeyGradients {
  using Acc = accumulate_t<T>;
  static constexpr Tiling kTiling = backward_tiling(kRowBytes<T, kWidth>);
  static constexpr int kThreads = kTiling.warps * kWarp;
  static constexpr int kRows = kTiling.warps * kWarpRows;
  static constexpr int kQueries = kTiling.streamed;
  // Up to 128 registers of a thread for both sums; what is wider is split between blocks.
  static constexpr int kMostColumns = sizeof(T) == 8 ? 32 : 128;
  static constexpr int kColumns = kWidth > kMostColumns ? kMostColumns : kWidth;

  struct Stage {
    Tile<T, kQueries, kWidth> query, grad_out;
    Acc logsumexp[kQueries], offset[kQueries];
  };
  struct Shared {
    Tile<T, kRows, kWidth> key, value;
    Stage stages[kTiling.stages];
  };
  static_assert(sizeof(Shared) <= kLargestShared);
  static_assert(kQueries <= kThreads);
};

template <class T, int kWidth>
__global__ void __launch_bounds__(KeyGradients<T, kWidth>::kThreads, 1)
    key_gradients_kernel(CrossAttentionParams p, CrossAttentionGradients g,
                         const accumulate_t<T>* offsets, accumulate_t<T>* bias_parts,
                         bool aligned) {
  using Config = KeyGradients<T, kWidth>;
  using Acc = accumulate_t<T>;
  constexpr int kThreads = Config::kThreads, kStages = Config::kTiling.stages;
  constexpr int kQueries = Config::kQueries;
  auto& shared = shared_memory<typename Config::Shared>();
  const int tid = static_cast<int>(threadIdx.x), lane = tid % kWarp;
  const int warp_row = tid / kWarp * kWarpRows;
  const int width = static_cast<int>(p.width);
  const int64_t kv_head = blockIdx.y, group = p.num_heads / p.num_kv_heads;
  const int first_column = static_cast<int>(blockIdx.z) * Config::kColumns;
  const Place place =
      place_of_tile(p.key_bounds, p.num_sequences, p.num_keys, Config::kRows, blockIdx.x);
  const Sequence s = sequence_at(p, place.sequence);
  const int64_t first_key = place.first;
  if (first_key >= s.num_keys) return;  // the whole block

  const auto keys = rows_of<T>(p, p.key, s.index, s.first_key, s.num_keys, kv_head);
  const auto values = rows_of<T>(p, p.value, s.index, s.first_key, s.num_keys, kv_head);
  const Acc* bias = bias_of<Acc>(p, s);
  const int64_t my_key = first_key + warp_row + lane / 4;
  const bool works = first_key + warp_row < s.num_keys;
  Acc my_bias[2] = {};
  for (int half = 0; half < 2; ++half) {
    const int64_t key = my_key + 8 * half;
    if (bias != nullptr && key < s.num_keys) my_bias[half] = bias[key] * static_cast<Acc>(kLog2E);
  }

  // Key j is seen by the queries from j - shift on.
  const int64_t shift = p.causal ? s.num_keys - s.num_queries : s.num_keys;
  const int64_t last_key = clamp(first_key + Config::kRows, 0, s.num_keys) - 1;
  const int64_t seen_from = clamp(first_key - shift, 0, s.num_queries) / kQueries * kQueries;
  const int64_t tiles = ceil_div<int64_t>(s.num_queries - seen_from, kQueries);

  // Iterations go over the tiles of queries of one head after the other.
  const auto query_head = [&](int64_t step) { return kv_head * group + step / tiles; };
  const auto query_tile = [&](int64_t step) { return seen_from + step % tiles * kQueries; };
  const auto query_rows = [&](const AttentionTensor& tensor, int64_t step) {
    return rows_of<T>(p, tensor, s.index, s.first_query, s.num_queries, query_head(step));
  };
  const auto load = [&](int64_t step) {
    auto& stage = shared.stages[step % kStages];
    const int64_t head = query_head(step), first = query_tile(step);
    const auto logsumexp_of = [&](int64_t query) {
      return static_cast<const Acc*>(p.logsumexp)[(s.first_query + query) * p.num_heads + head];
    };
    const auto query_present = [&](int64_t query) {
      return logsumexp_of(query) != -kInfinity<Acc>;
    };
    load_tile<kThreads>(stage.query, query_rows(p.query, step), first, width, aligned,
                        query_present);
    load_tile<kThreads>(stage.grad_out, query_rows(g.grad_out, step), first, width, aligned,
                        query_present);
    cp_async_commit();
    if (tid < kQueries) {
      const int64_t query = first + tid;
      const bool there = query < s.num_queries;
      stage.logsumexp[tid] = weightless_if_none(there ? logsumexp_of(query) : -kInfinity<Acc>);
      stage.offset[tid] = there ? offsets[(s.first_query + query) * p.num_heads + head] : Acc{0};
    }
  };
  const int64_t num_steps = group * tiles;
  if (num_steps > 0) {
    const auto key_present = [&](int64_t key) {
      return bias == nullptr || bias[key] != -kInfinity<Acc>;
    };
    load_tile<kThreads>(shared.key, keys, first_key, width, aligned, key_present);
    load_tile<kThreads>(shared.value, values, first_key, width, aligned, key_present);
    if (kStages == 2) load(0);
  }

  const Acc scale = static_cast<Acc>(p.scale * kLog2E);
  Acc key_sums[Config::kColumns / 8][4] = {}, value_sums[Config::kColumns / 8][4] = {};
  Acc bias_sums[2] = {};
  for (int64_t step = 0; step < num_steps; ++step) {
    next_tile<kStages>(step, num_steps, load);
    auto& stage = shared.stages[step % kStages];
    const int64_t first_query = query_tile(step);
    // On the diagonal a query sees some rows of a product and not others.
    const bool on_diagonal = p.causal && first_query + shift < last_key;
    int seen_by[2];  // the first row of the tile that sees the key
    for (int half = 0; half < 2; ++half) {
      seen_by[half] = static_cast<int>(clamp(my_key + 8 * half - shift - first_query, 0, kQueries));
    }
    Acc weights[kQueries / 8][4] = {}, grad_scores[kQueries / 8][4] = {};
    if (works) {
      row_products(weights, shared.key, warp_row, stage.query, width);
      row_products(grad_scores, shared.value, warp_row, stage.grad_out, width);
#pragma unroll
      for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int query = 8 * n + lane % 4 * 2 + e % 2;
          const Acc score = weights[n][e] * scale + my_bias[e / 2];
          // Selects: what is not seen may be NaN.
          const Acc weight =
              query < seen_by[e / 2] ? Acc{0} : power_of_2(score - stage.logsumexp[query]);
          Acc& grad_score = grad_scores[n][e];
          grad_score = weight == 0 ? Acc{0} : weight * (grad_score - stage.offset[query]);
          weights[n][e] = weight;
          bias_sums[e / 2] += grad_score;
        }
      }
    }
    bool removed = false;
    if (on_diagonal) {
      __syncthreads();  // the scores have been made
      // A query that is not finite has made its weights NaN, or has none.
      remove_non_finite<kThreads>(stage.query, width);
      removed = remove_non_finite<kThreads>(stage.grad_out, width);
    }
    if (works) {
      if (g.value.data != nullptr) {
        weighted_rows(value_sums, weights, stage.grad_out, first_column);
      }
      if (g.key.data != nullptr) weighted_rows(key_sums, grad_scores, stage.query, first_column);
      if (removed && g.value.data != nullptr) {
        add_non_finite<kQueries>(value_sums, query_rows(g.grad_out, step), first_query,
                                 first_column, width, [&](int half, int query) {
                                   return query >= seen_by[half] &&
                                          stage.logsumexp[query] != kInfinity<Acc>;
                                 });
      }
    }
  }
  if (!works) return;  // whole warps leave; no block barrier below

  Acc key_factors[2], value_factors[2];
  for (int half = 0; half < 2; ++half) {
    const bool hidden = my_bias[half] == -kInfinity<Acc>;
    key_factors[half] = hidden ? Acc{0} : static_cast<Acc>(p.scale);
    value_factors[half] = hidden ? Acc{0} : Acc{1};
    const Acc sum = row_sum(bias_sums[half]);
    const int64_t key = my_key + 8 * half;
    if (bias_parts != nullptr && key < s.num_keys && lane % 4 == 0 && first_column == 0) {
      bias_parts[kv_head * total_keys(p) + s.first_key + key] = hidden ? Acc{0} : sum;
    }
  }
  const auto store = [&](const AttentionTensor& to, const auto& sums, const auto& factors,
                         auto& tile) {
    if (to.data == nullptr) return;  // not wanted
    store_rows(rows_of<T>(p, to, s.index, s.first_key, s.num_keys, kv_head), first_key + warp_row,
               first_column, width, aligned, sums, factors, tile, warp_row);
  };
  store(g.key, key_sums, key_factors, shared.key);
  store(g.value, value_sums, value_factors, shared.value);
}

}  // namespace

void key_gradients(const CrossAttentionParams& p, const CrossAttentionGradients& g,
                   const BackwardWorkspace& workspace, cudaStream_t stream) {
  constexpr const char* kOp = "cross_attention_backward";
  dispatch_float<__half, __nv_bfloat16>(p.dtype, kOp, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_width<T>(kOp, p.width, [&](auto width) {
      using Config = KeyGradients<T, width>;
      using Acc = accumulate_t<T>;
      const int64_t tiles = num_tiles(p.key_bounds, p.num_sequences, p.num_keys, Config::kRows);
      if (tiles == 0 || p.num_kv_heads == 0) return;  // an empty grid is a launch error
      launch(kOp, key_gradients_kernel<T, width>,
             {.blocks = {tiles, p.num_kv_heads, ceil_div<int64_t>(p.width, Config::kColumns)},
              .threads = Config::kThreads,
              .shared_bytes = int64_t{sizeof(typename Config::Shared)},
              .stream = stream},
             p, g, static_cast<const Acc*>(workspace.offsets),
             static_cast<Acc*>(workspace.bias_parts),
             all_aligned<T>(p.query, p.key, p.value, g.grad_out, g.key, g.value));
    });
  });
}

}  // namespace fastregion::cuda
