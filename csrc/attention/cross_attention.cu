// CUDA side of cross_attention, forward; the equations are in the header.
//
// A block has the queries of one tile and head: 16 rows a warp, resident in shared memory. The keys
// and values of the sequence pass by in tiles, the next one being copied while one is worked on.
// A warp makes its scores [16, keys] in registers, turns them into weights around the running
// maximum of each row, and uses these, still in registers, as the left operand of the product with
// the values. So no score touches memory:
//   traffic  q and out once; k and v once for each tile of queries, from the L2 cache but the first
//   work     4 * queries * keys * width flops a head; 16-bit types on tensor cores
//
// Keys of bias -inf and rows beyond the end are zeros in shared memory. What else a query does not
// see lies on the causal diagonal: there values that are not finite are taken out of the tile and
// added to the queries that do see them.
#include "attention/query_tile.h"

namespace fastregion::cuda {
namespace {

// Shared memory limits the tiles. Three or four blocks of the narrow widths share an SM.
constexpr Tiling tiling(int row_bytes) {
  if (row_bytes <= 272) return {.warps = 4, .streamed = 64, .stages = 2};
  if (row_bytes <= 528) return {.warps = 4, .streamed = 32, .stages = 2};
  if (row_bytes <= 1040) return {.warps = 4, .streamed = 16, .stages = 1};
  return {.warps = 1, .streamed = 16, .stages = 1};
}

template <class T, int kWidth>
struct Forward {
  using Acc = accumulate_t<T>;
  static constexpr Tiling kTiling = tiling(kRowBytes<T, kWidth>);
  static constexpr int kThreads = kTiling.warps * kWarp;
  static constexpr int kRows = kTiling.warps * kWarpRows;
  // Up to 128 registers of a thread for the sums; what is wider is split between blocks.
  static constexpr int kColumns = sizeof(T) == 8 ? 64 : kWidth;

  struct Stage {
    Tile<T, kTiling.streamed, kWidth> key, value;
  };
  struct Shared {
    Tile<T, kRows, kWidth> query;
    Stage stages[kTiling.stages];
  };
  static_assert(sizeof(Shared) <= kLargestShared);
};

// The running softmax of a row, in powers of two.
template <class Acc>
struct RunningRow {
  Acc maximum = -kInfinity<Acc>;
  Acc sum = 0;  // of this lane's columns
};

// Scores to weights; scales what was summed with weights around an older maximum.
template <class Acc, int kScores, int kSums>
__device__ void update(RunningRow<Acc> (&rows)[2], Acc (&scores)[kScores][4],
                       Acc (&sums)[kSums][4]) {
  for (int half = 0; half < 2; ++half) {
    RunningRow<Acc>& row = rows[half];
    Acc maximum = row.maximum;
#pragma unroll
    for (int n = 0; n < kScores; ++n) {
      maximum = larger(maximum, larger(scores[n][2 * half], scores[n][2 * half + 1]));
    }
    maximum = larger(maximum, __shfl_xor_sync(kAllLanes, maximum, 1));
    maximum = larger(maximum, __shfl_xor_sync(kAllLanes, maximum, 2));
    const Acc base = maximum == -kInfinity<Acc> ? Acc{0} : maximum;  // nothing seen yet
    const Acc factor = power_of_2(row.maximum - base);
    row.maximum = maximum;
    row.sum *= factor;
#pragma unroll
    for (int n = 0; n < kScores; ++n) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        scores[n][e] = power_of_2(scores[n][e] - base);
        row.sum += scores[n][e];
      }
    }
#pragma unroll
    for (int n = 0; n < kSums; ++n) {
      sums[n][2 * half] *= factor;
      sums[n][2 * half + 1] *= factor;
    }
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(Forward<T, kWidth>::kThreads, 1)
    cross_attention_kernel(CrossAttentionParams p, bool aligned) {
  using Config = Forward<T, kWidth>;
  using Acc = accumulate_t<T>;
  constexpr int kThreads = Config::kThreads, kStages = Config::kTiling.stages;
  constexpr int kKeys = Config::kTiling.streamed;
  auto& shared = shared_memory<typename Config::Shared>();
  const int first_column = static_cast<int>(blockIdx.z) * Config::kColumns;
  const auto tile = query_tile<T, Config::kRows>(p);
  if (tile.first >= tile.sequence.num_queries) return;  // the whole block

  const auto load = [&](int64_t key_tile) {
    tile.template load<kThreads>(shared.stages[key_tile % kStages], key_tile * kKeys, aligned);
  };
  const int64_t num_key_tiles = ceil_div<int64_t>(tile.visible.by_any, kKeys);
  if (num_key_tiles > 0) {
    load_tile<kThreads>(shared.query, tile.rows(p, p.query), tile.first, tile.width, aligned,
                        [](int64_t) { return true; });
    if (kStages == 2) load(0);
  }

  const Acc scale = static_cast<Acc>(p.scale * kLog2E);
  RunningRow<Acc> rows[2];
  Acc sums[Config::kColumns / 8][4] = {};
  for (int64_t key_tile = 0; key_tile < num_key_tiles; ++key_tile) {
    next_tile<kStages>(key_tile, num_key_tiles, load);
    auto& stage = shared.stages[key_tile % kStages];
    const int64_t first_key = key_tile * kKeys;
    const int seen[] = {tile.visible.of(tile.query, first_key, kKeys),
                        tile.visible.of(tile.query + 8, first_key, kKeys)};
    Acc scores[kKeys / 8][4] = {};
    if (tile.works) {
      row_products(scores, shared.query, tile.warp_row, stage.key, tile.width);
      if (tile.bias != nullptr || first_key + kKeys > tile.visible.by_all) {
        scale_and_mask(scores, scale, tile.bias == nullptr ? nullptr : tile.bias + first_key,
                       tile.sequence.num_keys - first_key, seen);
      } else {
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) scores[n][e] *= scale;
        }
      }
    }
    // On the diagonal a value is seen by some rows of a product and not by others.
    const bool removed = tile.visible.on_diagonal(first_key, kKeys) &&
                         remove_non_finite<kThreads>(stage.value, tile.width);
    if (tile.works) {
      update(rows, scores, sums);
      weighted_rows(sums, scores, stage.value, first_column);
      if (removed) {
        add_non_finite<kKeys>(sums, tile.values, first_key, first_column, tile.width,
                              [&](int half, int key) {
                                return key < seen[half] && tile.key_present(first_key + key);
                              });
      }
    }
  }
  if (!tile.works) return;  // whole warps leave; no block barrier below

  Acc factors[2];
  for (int half = 0; half < 2; ++half) {
    const Acc sum = row_sum(rows[half].sum);
    const bool sees_none = sum == 0;  // not by the maximum, which passes over NaN
    factors[half] = sees_none ? Acc{0} : 1 / sum;
    const int64_t query = tile.query + 8 * half;
    if (query < tile.sequence.num_queries && threadIdx.x % 4 == 0 && first_column == 0) {
      static_cast<Acc*>(
          p.logsumexp)[(tile.sequence.first_query + query) * p.num_heads + tile.head] =
          sees_none ? -kInfinity<Acc>
                    : (rows[half].maximum + logarithm_2(sum)) * static_cast<Acc>(kLn2);
    }
  }
  store_rows(tile.rows(p, p.out), tile.first + tile.warp_row, first_column, tile.width, aligned,
             sums, factors, shared.query, tile.warp_row);
}

}  // namespace

void cross_attention(const CrossAttentionParams& p, cudaStream_t stream) {
  constexpr const char* kOp = "cross_attention";
  dispatch_float<__half, __nv_bfloat16>(p.dtype, kOp, [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_width<T>(kOp, p.width, [&](auto width) {
      using Config = Forward<T, width>;
      const int64_t tiles =
          num_tiles(p.query_bounds, p.num_sequences, p.num_queries, Config::kRows);
      if (tiles == 0 || p.num_heads == 0) return;  // an empty grid is a launch error
      launch(kOp, cross_attention_kernel<T, width>,
             {.blocks = {tiles, p.num_heads, ceil_div<int64_t>(p.width, Config::kColumns)},
              .threads = Config::kThreads,
              .shared_bytes = int64_t{sizeof(typename Config::Shared)},
              .stream = stream},
             p, all_aligned<T>(p.query, p.key, p.value, p.out));
    });
  });
}

}  // namespace fastregion::cuda
