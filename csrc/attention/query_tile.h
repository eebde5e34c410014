// What the kernels of cross_attention that keep queries and stream keys share: which rows a block
// of threads has, and how the keys come by.
#pragma once

#include "attention/attention_tiles.h"

namespace fastregion::cuda {

// Up to kRows queries of one head, 16 a warp, and the keys and values of their sequence.
template <class T, int kRows>
struct QueryTile {
  using Acc = accumulate_t<T>;

  int64_t head, kv_head;
  Sequence sequence;
  int64_t first;  // query; beyond the last where a sequence has no such tile
  int warp_row;   // of the tile, where the rows of this warp begin
  int64_t query;  // the first row of this lane; the second lies 8 behind it
  bool works;     // whether the warp has a row
  int width;
  Rows<T> keys, values;
  const Acc* bias;
  VisibleKeys visible;

  __device__ QueryTile(const CrossAttentionParams& p, const Place& place)
      : head(blockIdx.y),
        kv_head(head / (p.num_heads / p.num_kv_heads)),
        sequence(sequence_at(p, place.sequence)),
        first(place.first),
        warp_row(static_cast<int>(threadIdx.x) / kWarp * kWarpRows),
        query(first + warp_row + static_cast<int>(threadIdx.x) % kWarp / 4),
        works(first + warp_row < sequence.num_queries),
        width(static_cast<int>(p.width)),
        keys(rows_of<T>(p, p.key, sequence.index, sequence.first_key, sequence.num_keys, kv_head)),
        values(
            rows_of<T>(p, p.value, sequence.index, sequence.first_key, sequence.num_keys, kv_head)),
        bias(bias_of<Acc>(p, sequence)),
        visible(p, sequence, first, kRows) {}

  // The same rows of any tensor of queries.
  __device__ Rows<T> rows(const CrossAttentionParams& p, const AttentionTensor& tensor) const {
    return rows_of<T>(p, tensor, sequence.index, sequence.first_query, sequence.num_queries, head);
  }

  __device__ bool key_present(int64_t key) const {
    return bias == nullptr || bias[key] != -kInfinity<Acc>;
  }

  // Begins to load the keys and values from `first_key` on.
  template <int kThreads, class Stage>
  __device__ void load(Stage& stage, int64_t first_key, bool aligned) const {
    const auto present = [this](int64_t key) { return key_present(key); };
    load_tile<kThreads>(stage.key, keys, first_key, width, aligned, present);
    load_tile<kThreads>(stage.value, values, first_key, width, aligned, present);
    cp_async_commit();
  }
};

// Blocks are numbered through the tiles of all sequences; with causality the last tiles see the
// most keys: they start first.
template <class T, int kRows>
__device__ QueryTile<T, kRows> query_tile(const CrossAttentionParams& p) {
  const int64_t tile = p.causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
  return {p, place_of_tile(p.query_bounds, p.num_sequences, p.num_queries, kRows, tile)};
}

}  // namespace fastregion::cuda
