// CUDA side of decode_attention; the equations are in the header.
//
// First kernel: a block takes one chunk of one kv head, of a sequence or of a prefix; it writes the
// new columns of its chunk, which no other block touches, and goes over its query rows in tiles.
//   scores: a thread owns the 4 keys (of 2 bytes) of a 16-byte load and walks the channel pairs, so
//     nothing is summed across lanes; warps that share keys take parts of the channels.
//   weights: a warp per row.
//   values: a thread owns the 4 channels of a 16-byte load and walks the column pairs.
// Second kernel: a warp merges the parts of one (token, head).
//
// The grid covers the capacity, since the host does not know the lengths; blocks beyond them leave.
// Traffic: keys and values that are seen once from memory (further tiles find them in the caches),
// which is the floor: bytes / bandwidth. Parts are 1 / 32 of that for four query heads of bfloat16.
#include <cmath>
#include <limits>

#include "attention/decode_attention.h"
#include "core/device.h"

namespace fastregion::cuda {
namespace {

constexpr int kColumns = 256;  // of a chunk
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMergeWarps = 4;
constexpr int kMostWidth = 256;  // what the queries' shared memory holds
constexpr uint32_t kWholeWarp = 0xffffffffu;

// Keys of one 16-byte load of pairs of channels; channels of one of pairs of columns.
template <class T>
inline constexpr int kOwned = 8 / int{sizeof(T)};

template <class T>
struct alignas(16) Pack {
  T values[2 * kOwned<T>];
};

template <class T>
__device__ Pack<T> load(const T* from) {
  return *reinterpret_cast<const Pack<T>*>(from);
}

template <class Acc>
struct Result {
  Acc maximum, total;  // of the scores; of exp(score - maximum)
};

// Where the first kernel leaves its parts, and the second finds them.
template <class Acc>
struct Parts {
  Result<Acc>* results;  // [T, H, slots]
  Acc* sums;             // [T, H, slots, width]
  int64_t prefix_slots, slots;
};

struct Sequence {
  int64_t begin, end;   // tokens
  int64_t row, length;  // a row that does not exist is empty
};

__device__ int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

__device__ Sequence sequence_at(const DecodeAttentionParams& p, int64_t s) {
  const int64_t begin = p.bounds == nullptr ? s : clamp(p.bounds[s], 0, p.num_tokens);
  const int64_t end = p.bounds == nullptr ? s + 1 : clamp(p.bounds[s + 1], begin, p.num_tokens);
  const int64_t row = p.rows == nullptr ? s : p.rows[s];
  const bool exists = 0 <= row && row < p.cache.num_rows;
  return {begin, end, row, exists ? clamp(p.lengths[s], 0, kv_capacity(p.cache)) : 0};
}

__device__ int64_t sequence_of_token(const DecodeAttentionParams& p, int64_t token) {
  if (p.bounds == nullptr) return token;
  int64_t low = 0, high = p.num_sequences;  // bounds[low] <= token < bounds[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (p.bounds[middle] <= token ? low : high) = middle;
  }
  return low;
}

template <class T, int kRows>
struct DecodeShared {
  using Acc = accumulate_t<T>;
  alignas(16) Acc query[kMostWidth * kRows];  // [width][row]
  alignas(16) Acc weights[kColumns * kRows];  // [column][row]
  // [part of the channels][row][column] of scores, then [part of the columns][row][width] of sums
  alignas(16) Acc partial[kThreads * kOwned<T> * kRows];
  int64_t tokens[kThreads];  // that see the chunk, of those looked at together
  int64_t part[kRows];       // of each row of the tile; -1 where there is none
  int seen[kRows];
  int warp_counts[kWarps];
};

// A chunk of one kv head, and who sees it.
template <class T>
struct Chunk {
  T* keys;  // from its first column on
  T* values;
  int64_t first, columns;
  int64_t kv_head, slot;
  int64_t prefix;     // -1: it is of the sequence below
  Sequence sequence;  // of which only row and length count for a prefix
};

template <class T>
__device__ Chunk<T> chunk_of_block(const DecodeAttentionParams& p, int64_t own_slots,
                                   int64_t prefix_slots) {
  const int64_t num_own = p.num_sequences * p.num_kv_heads * own_slots;
  const bool own = int64_t{blockIdx.x} < num_own;
  const int64_t item = own ? int64_t{blockIdx.x} : int64_t{blockIdx.x} - num_own;
  const int64_t slots = own ? own_slots : prefix_slots;
  const int64_t unit = item / slots / p.num_kv_heads;

  Chunk<T> chunk;
  chunk.kv_head = item / slots % p.num_kv_heads;
  chunk.first = item % slots * kColumns;
  chunk.slot = item % slots + (own ? prefix_slots : 0);
  chunk.prefix = own ? -1 : unit;
  chunk.sequence = own ? sequence_at(p, unit)
                       : Sequence{0, p.num_tokens, unit,
                                  clamp(p.prefix_lengths[unit], 0, kv_capacity(p.prefix))};
  const KvCache& cache = own ? p.cache : p.prefix;
  const int64_t start = kv_row(cache, chunk.sequence.row, p.num_kv_heads, chunk.kv_head, p.width) +
                        chunk.first * p.width;
  chunk.keys = static_cast<T*>(cache.keys) + start;
  chunk.values = static_cast<T*>(cache.values) + start;
  chunk.columns = clamp(chunk.sequence.length - chunk.first, 0, kColumns);
  return chunk;
}

// Writes the new tokens of a sequence that fall into the chunk.
template <class T>
__device__ void append(const DecodeAttentionParams& p, const Chunk<T>& chunk) {
  const auto& [begin, end, row, length] = chunk.sequence;
  const int64_t at_zero = end - length + chunk.first;  // the token of the chunk's first column
  const int64_t from = at_zero < begin ? begin : at_zero;
  const int64_t count = at_zero + chunk.columns - from;
  for (int64_t i = threadIdx.x; i < count * p.width; i += kThreads) {
    const int64_t token = from + i / p.width, d = i % p.width;
    const int64_t column = token - at_zero;
    const auto element = [&](const TokenHeads& heads) {
      return static_cast<const T*>(
          heads.data)[token * heads.token_stride + chunk.kv_head * heads.head_stride + d];
    };
    chunk.keys[key_offset(column, d, p.width)] = element(p.k_new);
    chunk.values[value_offset(column, d, p.width)] = element(p.v_new);
  }
}

// Lists the tokens of [base, base + kThreads) that see the chunk, in order; returns their number.
template <class T, class Shared>
__device__ int list_tokens(const DecodeAttentionParams& p, const Chunk<T>& chunk, int64_t base,
                           Shared& s) {
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
  const int64_t token = base + tid;
  const bool sees = token < chunk.sequence.end &&
                    (chunk.prefix < 0 || p.prefix_of[sequence_of_token(p, token)] == chunk.prefix);
  int rank = sees;  // and those before it in the warp
  for (int distance = 1; distance < 32; distance *= 2) {
    const int before = __shfl_up_sync(kWholeWarp, rank, static_cast<unsigned>(distance));
    if (lane >= distance) rank += before;
  }
  if (lane == 31) s.warp_counts[warp] = rank;
  __syncthreads();
  int count = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) rank += count;
    count += s.warp_counts[w];
  }
  if (sees) s.tokens[rank - 1] = token;
  __syncthreads();
  return count;
}

// Queries of the tile's rows, scaled, and what they see.
template <class T, int kRows>
__device__ void stage_rows(const DecodeAttentionParams& p, const Chunk<T>& chunk,
                           const Parts<accumulate_t<T>>& parts, int64_t first_row, int64_t num_rows,
                           DecodeShared<T, kRows>& s) {
  using Acc = accumulate_t<T>;
  const int tid = static_cast<int>(threadIdx.x);
  const int64_t group = p.num_heads / p.num_kv_heads;
  const auto head_of = [&](int64_t row) { return chunk.kv_head * group + row % group; };
  for (int i = tid; i < kRows * static_cast<int>(p.width); i += kThreads) {
    const int r = i / static_cast<int>(p.width), d = i % static_cast<int>(p.width);
    const int64_t row = first_row + r;
    Acc value = 0;
    if (row < num_rows) {
      const T* query = static_cast<const T*>(p.query.data) +
                       s.tokens[row / group] * p.query.token_stride +
                       head_of(row) * p.query.head_stride;
      value = static_cast<Acc>(p.scale) * to_float(query[d]);
    }
    s.query[d * kRows + r] = value;
  }
  if (tid < kRows) {
    const int64_t row = first_row + tid;
    int64_t seen = chunk.columns, part = -1;  // rows that are missing hold nobody up
    if (row < num_rows) {
      const int64_t token = s.tokens[row / group];
      part = (token * p.num_heads + head_of(row)) * parts.slots + chunk.slot;
      if (chunk.prefix < 0) {
        const auto& [begin, end, cache_row, length] = chunk.sequence;
        seen = clamp(length - (end - token) + 1 - chunk.first, 0, chunk.columns);
      }
    }
    s.part[tid] = part;
    s.seen[tid] = static_cast<int>(seen);
  }
}

template <class T, int kRows>
__device__ void score(const Chunk<T>& chunk, int width, DecodeShared<T, kRows>& s) {
  using Acc = accumulate_t<T>;
  constexpr int kKeys = kOwned<T>;
  constexpr int kKeyWarps = kThreads / (32 * kKeys), kParts = kWarps / kKeyWarps;
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
  const int column = (warp % kKeyWarps * 32 + lane) * kKeys, part = warp / kKeyWarps;
  if (column >= chunk.columns) return;  // no barrier below, and nobody reads the score
  const int pairs = ceil_div(width / 2, kParts);
  const int end = (part + 1) * pairs < width / 2 ? (part + 1) * pairs : width / 2;
  const T* keys = chunk.keys + key_offset(column, 0, width);
  Acc sum[kRows][kKeys] = {};
#pragma unroll 4
  for (int d = part * pairs; d < end; ++d) {
    const Pack<T> pack = load(keys + d * 2 * kKvBlock);
    const Acc* query = s.query + 2 * d * kRows;  // the same for the warp
    for (int k = 0; k < kKeys; ++k) {
      const Acc even = to_float(pack.values[2 * k]), odd = to_float(pack.values[2 * k + 1]);
      for (int r = 0; r < kRows; ++r) sum[r][k] += query[r] * even + query[kRows + r] * odd;
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kKeys; ++k) {
      s.partial[(part * kRows + r) * kColumns + column + k] = sum[r][k];
    }
  }
}

template <class T, int kRows>
__device__ void weigh(const Parts<accumulate_t<T>>& parts, DecodeShared<T, kRows>& s) {
  using Acc = accumulate_t<T>;
  constexpr int kParts = kOwned<T>;  // of the channels, see score
  constexpr int kPerLane = kColumns / 32;
  constexpr Acc kLowest = -std::numeric_limits<Acc>::infinity();
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
  for (int r = warp; r < kRows; r += kWarps) {
    const int seen = s.seen[r];
    Acc scores[kPerLane], maximum = kLowest, total = 0;
    for (int i = 0; i < kPerLane; ++i) {
      const int column = i * 32 + lane;
      Acc sum = 0;
      for (int part = 0; part < kParts && column < seen; ++part) {
        sum += s.partial[(part * kRows + r) * kColumns + column];
      }
      scores[i] = sum;
      if (column < seen && sum > maximum) maximum = sum;
    }
    for (int distance = 16; distance > 0; distance /= 2) {
      const Acc other = __shfl_xor_sync(kWholeWarp, maximum, distance);
      maximum = other > maximum ? other : maximum;
    }
    const Acc shift = maximum == kLowest ? Acc{0} : maximum;  // -inf alone: weights of 0, not NaN
    for (int i = 0; i < kPerLane; ++i) {
      const int column = i * 32 + lane;
      const Acc weight = column < seen ? std::exp(scores[i] - shift) : Acc{0};
      s.weights[column * kRows + r] = weight;
      total += weight;
    }
    for (int distance = 16; distance > 0; distance /= 2) {
      total += __shfl_xor_sync(kWholeWarp, total, distance);
    }
    if (lane == 0 && s.part[r] >= 0) parts.results[s.part[r]] = {maximum, total};
  }
}

template <class T, int kRows>
__device__ void sum_values(const Chunk<T>& chunk, int width, const Parts<accumulate_t<T>>& parts,
                           DecodeShared<T, kRows>& s) {
  using Acc = accumulate_t<T>;
  constexpr int kChannels = kOwned<T>;
  const int tid = static_cast<int>(threadIdx.x);
  const int vectors = width / kChannels, num_walkers = kThreads / vectors;
  const int channel = tid % vectors * kChannels, walker = tid / vectors;
  int common = static_cast<int>(chunk.columns);  // columns that all rows see
  for (int r = 0; r < kRows; ++r) common = s.seen[r] < common ? s.seen[r] : common;
  if (walker < num_walkers) {
    Acc sum[kRows][kChannels] = {};
    const T* values = chunk.values + 2 * channel;
    int column = 2 * walker;
#pragma unroll 4
    for (; column + 1 < common; column += 2 * num_walkers) {
      const Pack<T> pack = load(values + column * width);
      const Acc* weights = s.weights + column * kRows;
      for (int k = 0; k < kChannels; ++k) {
        const Acc even = to_float(pack.values[2 * k]), odd = to_float(pack.values[2 * k + 1]);
        for (int r = 0; r < kRows; ++r) sum[r][k] += weights[r] * even + weights[kRows + r] * odd;
      }
    }
    // What only some rows see, or only one column of the pair, must not touch the others' sums.
    for (; column < chunk.columns; column += 2 * num_walkers) {
      const Pack<T> pack = load(values + column * width);
      for (int e = 0; e < 2; ++e) {
        for (int r = 0; r < kRows; ++r) {
          if (column + e >= s.seen[r]) continue;
          const Acc weight = s.weights[(column + e) * kRows + r];
          for (int k = 0; k < kChannels; ++k)
            sum[r][k] += weight * to_float(pack.values[2 * k + e]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int k = 0; k < kChannels; ++k) {
        s.partial[(walker * kRows + r) * width + channel + k] = sum[r][k];
      }
    }
  }
  __syncthreads();
  for (int i = tid; i < kRows * width; i += kThreads) {
    const int r = i / width, d = i % width;
    if (s.part[r] < 0) continue;
    Acc sum = 0;
    for (int w = 0; w < num_walkers; ++w) sum += s.partial[(w * kRows + r) * width + d];
    parts.sums[s.part[r] * width + d] = sum;
  }
}

template <class T, int kRows>
__global__ void __launch_bounds__(kThreads)
    decode_attention_kernel(DecodeAttentionParams p, Parts<accumulate_t<T>> parts) {
  auto& s = shared_memory<DecodeShared<T, kRows>>();
  const int64_t own_slots = parts.slots - parts.prefix_slots;
  const Chunk<T> chunk = chunk_of_block<T>(p, own_slots, parts.prefix_slots);
  if (chunk.columns == 0) return;  // the whole block
  if (chunk.prefix < 0 && p.k_new.data != nullptr) append(p, chunk);
  const int width = static_cast<int>(p.width);
  for (int64_t base = chunk.sequence.begin; base < chunk.sequence.end; base += kThreads) {
    // Its barriers also stand between the new columns and their first use.
    const int64_t num_rows = list_tokens(p, chunk, base, s) * (p.num_heads / p.num_kv_heads);
    for (int64_t first_row = 0; first_row < num_rows; first_row += kRows) {
      stage_rows(p, chunk, parts, first_row, num_rows, s);
      __syncthreads();
      score(chunk, width, s);
      __syncthreads();
      weigh(parts, s);
      __syncthreads();
      sum_values(chunk, width, parts, s);
      __syncthreads();
    }
  }
}

template <class T>
__global__ void __launch_bounds__(32 * kMergeWarps)
    merge_kernel(DecodeAttentionParams p, Parts<accumulate_t<T>> parts) {
  using Acc = accumulate_t<T>;
  constexpr int kPerLane = kMostWidth / 32;
  constexpr Acc kLowest = -std::numeric_limits<Acc>::infinity();
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32;
  const int64_t index = int64_t{blockIdx.x} * kMergeWarps + tid / 32;  // (token, head)
  if (index >= p.num_tokens * p.num_heads) return;  // whole warps; no block barrier below
  const int64_t s = sequence_of_token(p, index / p.num_heads);
  int64_t prefix_chunks = 0;
  if (p.prefix.keys != nullptr && p.prefix_of[s] >= 0 && p.prefix_of[s] < p.prefix.num_rows) {
    const int64_t length = clamp(p.prefix_lengths[p.prefix_of[s]], 0, kv_capacity(p.prefix));
    prefix_chunks = ceil_div<int64_t>(length, kColumns);
  }
  const int64_t num_chunks = prefix_chunks + ceil_div<int64_t>(sequence_at(p, s).length, kColumns);
  const auto part = [&](int64_t chunk) {
    const int64_t slot = chunk < prefix_chunks ? chunk : chunk - prefix_chunks + parts.prefix_slots;
    return index * parts.slots + slot;
  };

  Acc maximum = kLowest;
  for (int64_t chunk = lane; chunk < num_chunks; chunk += 32) {
    const Acc other = parts.results[part(chunk)].maximum;
    if (other > maximum) maximum = other;
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    const Acc other = __shfl_xor_sync(kWholeWarp, maximum, distance);
    maximum = other > maximum ? other : maximum;
  }
  Acc total = 0, sum[kPerLane] = {};
  for (int64_t base = 0; base < num_chunks; base += 32) {
    Acc own_weight = 0;
    if (base + lane < num_chunks) {
      const Result<Acc> result = parts.results[part(base + lane)];
      if (result.total != 0) {  // 0: nothing of the chunk is seen
        own_weight = std::exp(result.maximum - maximum);
        total += own_weight * result.total;
      }
    }
    for (int i = 0; i < 32 && base + i < num_chunks; ++i) {
      const Acc weight = __shfl_sync(kWholeWarp, own_weight, i);
      const Acc* from = parts.sums + part(base + i) * p.width;
      for (int k = 0; k < kPerLane; ++k) {
        if (k * 32 + lane < p.width) sum[k] += weight * from[k * 32 + lane];
      }
    }
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    total += __shfl_xor_sync(kWholeWarp, total, distance);
  }
  const bool nothing = total == 0;
  T* out = static_cast<T*>(p.out) + index * p.width;
  for (int k = 0; k < kPerLane; ++k) {
    if (k * 32 + lane < p.width) {
      out[k * 32 + lane] = from_float<T>(nothing ? Acc{0} : sum[k] / total);
    }
  }
  if (lane == 0) {
    static_cast<Acc*>(p.logsumexp)[index] = nothing ? kLowest : maximum + std::log(total);
  }
}

int64_t prefix_slots(const DecodeAttentionParams& p) {
  return p.prefix.keys == nullptr ? 0 : ceil_div<int64_t>(kv_capacity(p.prefix), kColumns);
}

int64_t slots(const DecodeAttentionParams& p) {
  return prefix_slots(p) + ceil_div<int64_t>(kv_capacity(p.cache), kColumns);
}

template <class T, int kRows>
void launch_chunks(const DecodeAttentionParams& p, const Parts<accumulate_t<T>>& parts,
                   cudaStream_t stream) {
  const int64_t items = p.num_sequences * (parts.slots - parts.prefix_slots) +
                        (p.prefix.keys == nullptr ? 0 : p.prefix.num_rows * parts.prefix_slots);
  if (items == 0) return;
  launch("decode_attention", decode_attention_kernel<T, kRows>,
         {.blocks = items * p.num_kv_heads,
          .threads = kThreads,
          .shared_bytes = sizeof(DecodeShared<T, kRows>),
          .stream = stream},
         p, parts);
}

}  // namespace

int64_t decode_attention_workspace(const DecodeAttentionParams& p) {
  const int64_t size = p.dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
  return p.num_tokens * p.num_heads * slots(p) * (p.width + 2) * size;
}

void decode_attention(const DecodeAttentionParams& params, void* workspace, cudaStream_t stream) {
  if (params.num_tokens == 0 || params.num_heads == 0) return;  // an empty grid is a launch error
  dispatch_float<__half, __nv_bfloat16>(params.dtype, "decode_attention", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    const int64_t count = params.num_tokens * params.num_heads * slots(params);
    Acc* sums = static_cast<Acc*>(workspace);
    const Parts<Acc> parts{.results = reinterpret_cast<Result<Acc>*>(sums + count * params.width),
                           .sums = sums,
                           .prefix_slots = prefix_slots(params),
                           .slots = slots(params)};
    // The smaller tile where no more than four rows ever share a chunk.
    const bool alone = params.bounds == nullptr && params.prefix.keys == nullptr;
    if (alone && params.num_heads <= 4 * params.num_kv_heads) {
      launch_chunks<T, 4>(params, parts, stream);
    } else {
      launch_chunks<T, 8>(params, parts, stream);
    }
    launch("decode_attention merge", merge_kernel<T>,
           {.blocks = ceil_div<int64_t>(params.num_tokens * params.num_heads, kMergeWarps),
            .threads = 32 * kMergeWarps,
            .stream = stream},
           params, parts);
  });
}

}  // namespace fastregion::cuda
