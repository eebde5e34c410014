// What the kernels of cross_attention share: which rows a block works on, how tiles of rows come to
// shared memory and results leave it, and how scores become weights.
//
// A block of 1 to 4 warps keeps "resident" rows, 16 a warp, and streams the rows of the other side
// past them, tile after tile, with asynchronous copies that run one tile ahead where two stages
// fit.
#pragma once

#include <cmath>
#include <limits>

#include "attention/cross_attention.h"
#include "attention/tile_products.h"

namespace fastregion::cuda {

inline constexpr int64_t kLargestWidth = 256;
// Shared memory that a block may have on every device since compute capability 8.0.
inline constexpr std::size_t kLargestShared = 99 * 1024;

struct Tiling {
  int warps;
  int streamed;  // rows of a tile
  int stages;
};

// Rows of a sequence that is worked on by itself; the firsts count through all sequences.
struct Sequence {
  int64_t index;
  int64_t first_query, num_queries;
  int64_t first_key, num_keys;
};

__device__ inline int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

inline __host__ __device__ bool is_packed(const CrossAttentionParams& p) {
  return p.query_bounds != nullptr;
}
inline __host__ __device__ int64_t total_queries(const CrossAttentionParams& p) {
  return is_packed(p) ? p.num_queries : p.num_sequences * p.num_queries;
}
inline __host__ __device__ int64_t total_keys(const CrossAttentionParams& p) {
  return is_packed(p) ? p.num_keys : p.num_sequences * p.num_keys;
}

// Tiles of `rows` are numbered through all sequences. Where their lengths are on the device only,
// sequence s gets the numbers from bounds[s] / rows + s on: never too few, at most one too many.
inline int64_t num_tiles(const int32_t* bounds, int64_t num_sequences, int64_t length, int rows) {
  return bounds == nullptr ? num_sequences * ceil_div<int64_t>(length, rows)
                           : length / rows + num_sequences;
}

struct Place {
  int64_t sequence, first;  // and the first row there; may lie beyond the last
};

__device__ inline Place place_of_tile(const int32_t* bounds, int64_t num_sequences, int64_t length,
                                      int rows, int64_t tile) {
  if (bounds == nullptr) {
    const int64_t tiles = ceil_div<int64_t>(length, rows);
    return {tile / tiles, tile % tiles * rows};
  }
  int64_t low = 0, high = num_sequences;  // the last sequence that begins at `tile` or before
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (bounds[middle] / rows + middle <= tile ? low : high) = middle;
  }
  // Wrong boundaries may put it before the first row.
  const int64_t first = (tile - low - bounds[low] / rows) * rows;
  return {low, first < 0 ? 0 : first};
}

__device__ inline Sequence sequence_at(const CrossAttentionParams& p, int64_t index) {
  if (!is_packed(p)) {
    return {index, index * p.num_queries, p.num_queries, index * p.num_keys, p.num_keys};
  }
  // The host has not read the boundaries: wrong ones must not lead outside of the tensors.
  const int64_t query = clamp(p.query_bounds[index], 0, p.num_queries);
  const int64_t key = clamp(p.key_bounds[index], 0, p.num_keys);
  return {index, query, clamp(p.query_bounds[index + 1], query, p.num_queries) - query, key,
          clamp(p.key_bounds[index + 1], key, p.num_keys) - key};
}

// The rows of one head of one sequence.
template <class T>
struct Rows {
  T* data;
  int64_t stride, count;
};

template <class T>
__device__ Rows<T> rows_of(const CrossAttentionParams& p, const AttentionTensor& tensor,
                           int64_t sequence, int64_t first, int64_t count, int64_t head) {
  const int64_t start = is_packed(p) ? first * tensor.token_stride : sequence * tensor.batch_stride;
  return {static_cast<T*>(tensor.data) + start + head * tensor.head_stride, tensor.token_stride,
          count};
}

// key_bias of a sequence, or null.
template <class Acc>
__device__ const Acc* bias_of(const CrossAttentionParams& p, const Sequence& sequence) {
  if (p.key_bias == nullptr) return nullptr;
  const int64_t start = is_packed(p) ? sequence.first_key : sequence.index * p.bias_stride;
  return static_cast<const Acc*>(p.key_bias) + start;
}

// ---- numbers ----------------------------------------------------------------------------------
// Weights are made with powers of two, which the device has an instruction for.
inline constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

__device__ inline float power_of_2(float x) { return exp2f(x); }
__device__ inline double power_of_2(double x) { return exp2(x); }
__device__ inline float logarithm_2(float x) { return log2f(x); }
__device__ inline double logarithm_2(double x) { return log2(x); }
__device__ inline float larger(float a, float b) { return fmaxf(a, b); }
__device__ inline double larger(double a, double b) { return fmax(a, b); }

template <class Acc>
inline constexpr Acc kInfinity = std::numeric_limits<Acc>::infinity();

template <class Acc>
__device__ bool is_finite(Acc x) {
  return x - x == 0;
}

// Over the four lanes that share a row.
template <class Acc>
__device__ Acc row_sum(Acc value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}

// logsumexp as a power of two, so that the weights of a query that sees no key are 0.
template <class Acc>
__device__ Acc weightless_if_none(Acc logsumexp) {
  return logsumexp == -kInfinity<Acc> ? kInfinity<Acc> : logsumexp * static_cast<Acc>(kLog2E);
}

// Which keys the rows of a tile of queries see: those before a number, which causality makes
// smaller.
struct VisibleKeys {
  bool causal;
  int64_t num_keys, shift;  // query i sees the keys before i + 1 + shift
  int64_t by_all, by_any;

  __device__ VisibleKeys(const CrossAttentionParams& p, const Sequence& s, int64_t first_query,
                         int rows)
      : causal(p.causal),
        num_keys(s.num_keys),
        shift(s.num_keys - s.num_queries),
        by_all(seen_by(first_query)),
        by_any(seen_by(clamp(first_query + rows, 0, s.num_queries) - 1)) {}

  __device__ int64_t seen_by(int64_t query) const {
    return causal ? clamp(query + 1 + shift, 0, num_keys) : num_keys;
  }
  // Of the keys [first, first + count), how many from the first on.
  __device__ int of(int64_t query, int64_t first, int count) const {
    return static_cast<int>(clamp(seen_by(query) - first, 0, count));
  }
  // Whether some rows see one of these keys and others do not.
  __device__ bool on_diagonal(int64_t first, int count) const {
    return clamp(first + count, 0, by_any) > by_all;
  }
};

// Scores [16, keys] of one tile, from products to powers of two: scaled, with bias, -inf where a
// query does not see the key. `seen` counts the keys from the tile's first on that a row sees.
template <class Acc, int kFragments>
__device__ void scale_and_mask(Acc (&scores)[kFragments][4], Acc scale, const Acc* bias,
                               int64_t num_keys, const int (&seen)[2]) {
  const int first = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int n = 0; n < kFragments; ++n) {
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const int key = 8 * n + first + which;
      Acc extra = 0;
      if (bias != nullptr && key < num_keys) extra = bias[key] * static_cast<Acc>(kLog2E);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // A select, because a key that is not seen may be NaN.
        Acc& score = scores[n][2 * half + which];
        score =
            key < seen[half] && extra != -kInfinity<Acc> ? score * scale + extra : -kInfinity<Acc>;
      }
    }
  }
}

// ---- tiles ------------------------------------------------------------------------------------
// Begins to fill a tile with the rows from `first` on: zeros where there is no such row, no such
// column, or `present(row)` is false; these are not read. Ends with cp_async_wait and a barrier.
template <int kThreads, class T, int kNumRows, int kWidth, class Present>
__device__ void load_tile(Tile<T, kNumRows, kWidth>& tile, const Rows<T>& from, int64_t first,
                          int width, bool aligned, const Present& present) {
  constexpr int kVector = Tile<T, 1, kWidth>::kVector;
  constexpr int kVectors = Tile<T, 1, kWidth>::kColumns / kVector;  // of a row
  for (int i = static_cast<int>(threadIdx.x); i < kNumRows * kVectors; i += kThreads) {
    const int row = i / kVectors, column = i % kVectors * kVector;
    const int64_t token = first + row;
    const bool there = column < width && token < from.count && present(token);
    const T* source = there ? from.data + token * from.stride + column : from.data;
    T* to = tile.rows[row] + column;
    if (aligned) {
      cp_async(to, source, there);
    } else {
      for (int v = 0; v < kVector; ++v) to[v] = there ? source[v] : from_float<T>(0);
    }
  }
}

// 0 * NaN would carry a row to where it has no weight. Makes zeros of what is not finite in a tile
// and returns, to all threads, whether there was any; a barrier for what has been written.
template <int kThreads, class T, int kNumRows, int kWidth>
__device__ bool remove_non_finite(Tile<T, kNumRows, kWidth>& tile, int width) {
  int found = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kNumRows * kWidth; i += kThreads) {
    const int row = i / kWidth, column = i % kWidth;
    if (column >= width || is_finite(to_float(tile.rows[row][column]))) continue;
    tile.rows[row][column] = from_float<T>(0);
    found = 1;
  }
  return __syncthreads_or(found) != 0;
}

// Gives what remove_non_finite took out of the rows [first, first + kStreamed) back to the rows
// that see them, where `sees(half, row)`: a weight above 0 changes neither infinity nor NaN. Rare,
// so read from memory once more.
template <int kStreamed, class T, int kFragments, class Sees>
__device__ void add_non_finite(accumulate_t<T> (&sums)[kFragments][4], const Rows<T>& from,
                               int64_t first, int first_column, int width, const Sees& sees) {
  for (int row = 0; row < kStreamed && first + row < from.count; ++row) {
    const bool seen[] = {sees(0, row), sees(1, row)};
    if (!seen[0] && !seen[1]) continue;
    const T* source = from.data + (first + row) * from.stride;
#pragma unroll
    for (int n = 0; n < kFragments; ++n) {
#pragma unroll
      for (int which = 0; which < 2; ++which) {
        const int column = first_column + 8 * n + static_cast<int>(threadIdx.x) % 4 * 2 + which;
        const accumulate_t<T> value = column < width ? to_float(source[column]) : 0;
        if (is_finite(value)) continue;
        if (seen[0]) sums[n][which] += value;
        if (seen[1]) sums[n][2 + which] += value;
      }
    }
  }
}

// Writes a warp's rows, times a factor each (0 gives zeros), to the rows of `to` from `first` on
// and the columns from `first_column` on. Passes through the warp's own rows of a tile, which must
// not be needed any more, so that 16 bytes leave at once.
template <class T, int kNumRows, int kWidth, int kFragments>
__device__ void store_rows(const Rows<T>& to, int64_t first, int first_column, int width,
                           bool aligned, const accumulate_t<T> (&c)[kFragments][4],
                           const accumulate_t<T> (&factors)[2], Tile<T, kNumRows, kWidth>& tile,
                           int first_row) {
  using Acc = accumulate_t<T>;
  constexpr int kVector = Tile<T, 1, kWidth>::kVector;
  constexpr int kVectors = 8 * kFragments / kVector;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncwarp();  // all lanes have read what is overwritten
#pragma unroll
  for (int n = 0; n < kFragments; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Pack<T, 2> pair;
      for (int which = 0; which < 2; ++which) {
        const Acc value = c[n][2 * half + which] * factors[half];
        pair.values[which] = from_float<T>(factors[half] == 0 ? Acc{0} : value);
      }
      T* row = tile.rows[first_row + lane / 4 + 8 * half];
      *reinterpret_cast<Pack<T, 2>*>(row + 8 * n + lane % 4 * 2) = pair;
    }
  }
  __syncwarp();
  for (int i = lane; i < kWarpRows * kVectors; i += kWarp) {
    const int row = i / kVectors, column = i % kVectors * kVector;
    const int64_t token = first + row;
    if (token >= to.count || first_column + column >= width) continue;
    const T* from = tile.rows[first_row + row] + column;
    T* target = to.data + token * to.stride + first_column + column;
    if (aligned) {
      using Vector = Pack<T, kVector>;
      *reinterpret_cast<Vector*>(target) = *reinterpret_cast<const Vector*>(from);
    } else {
      for (int v = 0; v < kVector; ++v) target[v] = from[v];
    }
  }
}

// Step `step` of `num_steps` over tiles: waits for the tile, and where there is a second stage
// begins to load the next one. `load(step)` is called by all threads.
template <int kStages, class Load>
__device__ void next_tile(int64_t step, int64_t num_steps, const Load& load) {
  if (kStages == 1) {
    __syncthreads();  // the last tile has been used
    load(step);
  }
  cp_async_wait<0>();
  __syncthreads();  // this tile is there, and the one before has been used
  if (kStages == 2 && step + 1 < num_steps) load(step + 1);
}

// ---- launching --------------------------------------------------------------------------------
template <class T>
bool is_aligned(const AttentionTensor& tensor) {
  constexpr int64_t kVector = 16 / int64_t{sizeof(T)};
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.batch_stride % kVector == 0 &&
         tensor.token_stride % kVector == 0 && tensor.head_stride % kVector == 0;
}

template <class T, class... Tensors>
bool all_aligned(const Tensors&... tensors) {
  return (is_aligned<T>(tensors) && ...);
}

// Calls body(std::integral_constant<int, kWidth>) with the smallest width that is compiled and has
// room: the widths of the vision towers exactly, others with columns of zeros.
template <class T, class Body>
void dispatch_width(const char* op, int64_t width, const Body& body) {
  check(width % 8 == 0 && width <= kLargestWidth, op,
        ": the head width must be a multiple of 8 up to ", kLargestWidth, ", got ", width);
  if constexpr (sizeof(T) == 2) {
    if (width <= 64) return body(std::integral_constant<int, 64>{});
  }
  if constexpr (sizeof(T) <= 4) {
    if (width <= 72) return body(std::integral_constant<int, 72>{});
  }
  if (width <= 128) return body(std::integral_constant<int, 128>{});
  return body(std::integral_constant<int, 256>{});
}

}  // namespace fastregion::cuda
