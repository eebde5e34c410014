// dq of cross_attention; the equations are in cross_attention.h.
//
// As the forward pass: a block keeps the queries of one tile and head, and their gradients, and
// streams keys and values. Both products S = q k^T and dP = dout v^T are made again in registers,
// become dS = P * (dP - D), and this is the left operand of dS k.
//   traffic  q, dout and dq once; k and v once for each tile of queries
//   work     6 * queries * keys * width flops a head
#include "attention/cross_attention_backward.h"
#include "attention/query_tile.h"

namespace fastregion::cuda {
namespace {

template <class T, int kWidth>
struct QueryGradients {
  using Acc = accumulate_t<T>;
  static constexpr Tiling kTiling = backward_tiling(kRowBytes<T, kWidth>);
  static constexpr int kThreads = kTiling.warps * kWarp;
  static constexpr int kRows = kTiling.warps * kWarpRows;
  // Up to 128 registers of a thread for the sums; what is wider is split between blocks.
  static constexpr int kColumns = sizeof(T) == 8 ? 64 : kWidth;

  struct Stage {
    Tile<T, kTiling.streamed, kWidth> key, value;
  };
  struct Shared {
    Tile<T, kRows, kWidth> query, grad_out;
    Stage stages[kTiling.stages];
  };
  static_assert(sizeof(Shared) <= kLargestShared);
};

template <class T, int kWidth>
__global__ void __launch_bounds__(QueryGradients<T, kWidth>::kThreads, 1)
    query_gradients_kernel(CrossAttentionParams p, CrossAttentionGradients g,
                           const accumulate_t<T>* offsets, bool aligned) {
  using Config = QueryGradients<T, kWidth>;
  using Acc = accumulate_t<T>;
  constexpr int kThreads = Config::kThreads, kStages = Config::kTiling.stages;
  constexpr int kKeys = Config::kTiling.streamed;
  auto& shared = shared_memory<typename Config::Shared>();
  const int first_column = static_cast<int>(blockIdx.z) * Config::kColumns;
  const auto tile = query_tile<T, Config::kRows>(p);
  const Sequence& s = tile.sequence;
  if (tile.first >= s.num_queries) return;  // the whole block

  Acc logsumexp[2], offset[2];
  for (int half = 0; half < 2; ++half) {
    const int64_t query = tile.query + 8 * half;
    const bool there = query < s.num_queries;
    const int64_t index = (s.first_query + query) * p.num_heads + tile.head;
    const Acc read = there ? static_cast<const Acc*>(p.logsumexp)[index] : -kInfinity<Acc>;
    logsumexp[half] = weightless_if_none(read);
    offset[half] = there ? offsets[index] : Acc{0};
  }

  const auto load = [&](int64_t key_tile) {
    tile.template load<kThreads>(shared.stages[key_tile % kStages], key_tile * kKeys, aligned);
  };
  const int64_t num_key_tiles = ceil_div<int64_t>(tile.visible.by_any, kKeys);
  if (num_key_tiles > 0) {
    const auto all_present = [](int64_t) { return true; };
    const auto load_queries = [&](auto& to, const AttentionTensor& from) {
      load_tile<kThreads>(to, tile.rows(p, from), tile.first, tile.width, aligned, all_present);
    };
    load_queries(shared.query, p.query);
    load_queries(shared.grad_out, g.grad_out);
    if (kStages == 2) load(0);
  }

  const Acc scale = static_cast<Acc>(p.scale * kLog2E);
  Acc sums[Config::kColumns / 8][4] = {};
  for (int64_t key_tile = 0; key_tile < num_key_tiles; ++key_tile) {
    next_tile<kStages>(key_tile, num_key_tiles, load);
    auto& stage = shared.stages[key_tile % kStages];
    const int64_t first_key = key_tile * kKeys;
    const int seen[] = {tile.visible.of(tile.query, first_key, kKeys),
                        tile.visible.of(tile.query + 8, first_key, kKeys)};
    Acc scores[kKeys / 8][4] = {}, grad_scores[kKeys / 8][4] = {};
    if (tile.works) {
      row_products(scores, shared.query, tile.warp_row, stage.key, tile.width);
      row_products(grad_scores, shared.grad_out, tile.warp_row, stage.value, tile.width);
      scale_and_mask(scores, scale, tile.bias == nullptr ? nullptr : tile.bias + first_key,
                     s.num_keys - first_key, seen);
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const Acc weight = power_of_2(scores[n][e] - logsumexp[e / 2]);
          Acc& grad_score = grad_scores[n][e];
          // A select: what is not seen may be NaN.
          grad_score = weight == 0 ? Acc{0} : weight * (grad_score - offset[e / 2]);
        }
      }
    }
    // On the diagonal a key is seen by some rows of a product and not by others. A key that is not
    // finite, where it is seen, has made the weights NaN or has none.
    if (tile.visible.on_diagonal(first_key, kKeys)) {
      __syncthreads();  // the scores have been made
      remove_non_finite<kThreads>(stage.key, tile.width);
    }
    if (tile.works) weighted_rows(sums, grad_scores, stage.key, first_column);
  }
  if (!tile.works) return;  // whole warps leave; no block barrier below

  Acc factors[2];
  for (int half = 0; half < 2; ++half) {
    factors[half] = logsumexp[half] == kInfinity<Acc> ? Acc{0} : static_cast<Acc>(p.scale);
  }
  store_rows(tile.rows(p, g.query), tile.first + tile.warp_row, first_column, tile.width, aligned,
             sums, factors, shared.query, tile.warp_row);
}

}  // namespace

void query_gradients(const CrossAttentionParams& p, const CrossAttentionGradients& g,
                     const BackwardWorkspace& workspace, cudaStream_t stream) {
  constexpr const char* kOp = "cross_attention_backward";
  dispatch_float<__half, __nv_bfloat16>(p.dtype, kOp, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_width<T>(kOp, p.width, [&](auto width) {
      using Config = QueryGradients<T, width>;
      const int64_t tiles =
          num_tiles(p.query_bounds, p.num_sequences, p.num_queries, Config::kRows);
      if (tiles == 0 || p.num_heads == 0) return;  // an empty grid is a launch error
      launch(kOp, query_gradients_kernel<T, width>,
             {.blocks = {tiles, p.num_heads, ceil_div<int64_t>(p.width, Config::kColumns)},
              .threads = Config::kThreads,
              .shared_bytes = int64_t{sizeof(typename Config::Shared)},
              .stream = stream},
             p, g, static_cast<const accumulate_t<T>*>(workspace.offsets),
             all_aligned<T>(p.query, p.key, p.value, g.grad_out, g.query));
    });
  });
}

}  // namespace fastregion::cuda
