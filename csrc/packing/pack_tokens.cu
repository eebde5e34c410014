// CUDA side of pack_tokens; the equations are in the header.
//
// Forward, a pure copy: rows move as the widest words that their length, strides and addresses
// allow. One warp per row; lane l copies words l, l + 32, ...: a warp step is one coalesced
// segment. Traffic: total rows read + written, the minimum. The few sources travel with the launch,
// so the kernel needs no table in device memory. A row number outside of the sources gives a row of
// zeros.
//
// Gradient: a warp owns kChunk vectors of one row of the source, finds the places that the row was
// copied to and sums their gradients. No atomics, so the order of the sum is fixed.
// Traffic: every place read once, every row of the source written once, zeros for most of an
// embedding matrix. The search reads about log2(total) words, the same ones for a whole warp.
#include "core/device.h"
#include "core/vectors.h"
#include "packing/pack_tokens.h"

namespace fastregion::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kRowsPerBlock = 4;  // 128 threads: enough rows in flight, no shared memory
// Vectors of a gradient row per lane: the loads of one place are in flight together.
constexpr int kVectorsPerLane = 4;
constexpr int kChunk = kWarp * kVectorsPerLane;

struct Sources {
  const char* data[kMaxSources];
  int64_t end[kMaxSources];  // in rows of the concatenation; the last one is repeated
  int64_t num_rows[kMaxSources];
  int64_t row_stride[kMaxSources];
};

template <class Word>
__global__ void __launch_bounds__(kWarp* kRowsPerBlock)
    pack_rows_kernel(Sources sources,      // [kMaxSources], unused ones end with the last
                     const int64_t* rows,  // [total]
                     Word* out,            // [total, out_words], row_words of each
                     int64_t total, int64_t row_words, int64_t out_words, bool in_place) {
  const int tid = static_cast<int>(threadIdx.x);
  const int64_t r = int64_t{blockIdx.x} * kRowsPerBlock + tid / kWarp;
  const int lane = tid % kWarp;
  if (r >= total) return;  // whole warps leave together, and there is no barrier below
  const int64_t row = rows[r];
  if (in_place && row < 0) return;
  int s = 0;
  while (s < kMaxSources - 1 && row >= sources.end[s]) ++s;
  Word* to = out + r * out_words;
  const bool inside = row >= 0 && row < sources.end[s];
  const int64_t source_row = row - (sources.end[s] - sources.num_rows[s]);
  const Word* from =
      inside ? reinterpret_cast<const Word*>(sources.data[s] + source_row * sources.row_stride[s])
             : nullptr;
  for (int64_t w = lane; w < row_words; w += kWarp) to[w] = inside ? from[w] : Word{};
}

template <class Word>
void launch_pack(const PackRowsParams& p, const Sources& sources, cudaStream_t stream) {
  launch("pack_tokens", pack_rows_kernel<Word>,
         {.blocks = ceil_div<int64_t>(p.total, kRowsPerBlock),
          .threads = kWarp * kRowsPerBlock,
          .stream = stream},
         sources, p.rows, static_cast<Word*>(p.out), p.total,
         p.row_bytes / static_cast<int64_t>(sizeof(Word)),
         p.out_stride / static_cast<int64_t>(sizeof(Word)), p.in_place);
}

// The first k with sorted[k] >= row.
__device__ int64_t lower_bound(const int64_t* sorted, int64_t total, int64_t row) {
  int64_t begin = 0;
  int64_t end = total;
  while (begin < end) {
    const int64_t middle = (begin + end) / 2;
    if (sorted[middle] < row) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

template <class T, int kVector>
__global__ void __launch_bounds__(kWarp* kRowsPerBlock)
    scatter_rows_kernel(ScatterRowsParams p, int64_t num_vectors, int64_t num_chunks) {
  using Acc = accumulate_t<T>;
  const int tid = static_cast<int>(threadIdx.x);
  const int64_t item = int64_t{blockIdx.x} * kRowsPerBlock + tid / kWarp;
  const int64_t row = item / num_chunks;
  if (row >= p.num_rows) return;  // whole warps leave together, and there is no barrier below
  const int64_t first_vector = item % num_chunks * kChunk + tid % kWarp;

  Acc sums[kVectorsPerLane][kVector] = {};
  for (int64_t k = lower_bound(p.sorted_rows, p.total, p.start + row);
       k < p.total && p.sorted_rows[k] == p.start + row; ++k) {
    const T* grad = static_cast<const T*>(p.grad) + p.places[k] * p.grad_stride;
    for (int i = 0; i < kVectorsPerLane; ++i) {
      const int64_t vector = first_vector + i * kWarp;
      if (vector >= num_vectors) continue;
      const auto term = *reinterpret_cast<const Pack<T, kVector>*>(grad + vector * kVector);
      for (int c = 0; c < kVector; ++c) sums[i][c] += to_float(term.values[c]);
    }
  }
  T* out = static_cast<T*>(p.out) + row * p.channels;
  for (int i = 0; i < kVectorsPerLane; ++i) {
    const int64_t vector = first_vector + i * kWarp;
    if (vector >= num_vectors) continue;
    Pack<T, kVector> sum;
    for (int c = 0; c < kVector; ++c) sum.values[c] = from_float<T>(sums[i][c]);
    *reinterpret_cast<Pack<T, kVector>*>(out + vector * kVector) = sum;
  }
}

template <class T, int kVector>
void launch_scatter(const ScatterRowsParams& p, cudaStream_t stream) {
  const int64_t num_vectors = p.channels / kVector;
  const int64_t num_chunks = ceil_div<int64_t>(num_vectors, kChunk);
  launch("pack_tokens_backward", scatter_rows_kernel<T, kVector>,
         {.blocks = ceil_div<int64_t>(p.num_rows * num_chunks, kRowsPerBlock),
          .threads = kWarp * kRowsPerBlock,
          .stream = stream},
         p, num_vectors, num_chunks);
}

}  // namespace

void pack_rows(const PackRowsParams& p, cudaStream_t stream) {
  check(std::ssize(p.sources) <= kMaxSources, "pack_tokens: at most ", kMaxSources,
        " sources, got ", p.sources.size());
  if (p.total == 0 || p.row_bytes == 0) return;  // an empty grid is a launch error
  Sources sources{};
  int64_t end = 0;
  // Bits that any address, stride or length sets: the lowest one limits the width of a word.
  uintptr_t bits = reinterpret_cast<uintptr_t>(p.out) | static_cast<uintptr_t>(p.row_bytes) |
                   static_cast<uintptr_t>(p.out_stride);
  for (int64_t s = 0; s < kMaxSources; ++s) {
    if (s < std::ssize(p.sources)) {
      const RowSource& source = p.sources[static_cast<size_t>(s)];
      end += source.num_rows;
      sources.data[s] = static_cast<const char*>(source.data);
      sources.num_rows[s] = source.num_rows;
      sources.row_stride[s] = source.row_stride;
      bits |= reinterpret_cast<uintptr_t>(source.data) | static_cast<uintptr_t>(source.row_stride);
    }
    sources.end[s] = end;
  }
  if (bits % 16 == 0) {
    launch_pack<uint4>(p, sources, stream);
  } else if (bits % 4 == 0) {
    launch_pack<uint32_t>(p, sources, stream);
  } else {
    launch_pack<uint16_t>(p, sources, stream);  // every dtype has at least two bytes
  }
}

void scatter_rows(const ScatterRowsParams& params, cudaStream_t stream) {
  if (params.num_rows == 0 || params.channels == 0) return;
  dispatch_float<__half, __nv_bfloat16>(params.dtype, "pack_tokens_backward", [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (vectorizable<T>({params.channels, params.grad_stride}, {params.grad, params.out})) {
      launch_scatter<T, kVectorLength<T>>(params, stream);
    } else {
      launch_scatter<T, 1>(params, stream);
    }
  });
}

}  // namespace fastregion::cuda
