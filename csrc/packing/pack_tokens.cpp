// CPU side of pack_tokens; the equations are in the header.
//
// Traffic: total rows read + written, the minimum of a copy. The gradient writes every row of the
// source once: zeros, a copied row, or the sum of the rows that repeat.
#include "packing/pack_tokens.h"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "core/huge_pages.h"
#include "core/parallel.h"
#include "core/rows.h"

namespace fastregion::cpu {
namespace {

// Below this many copied bytes a second thread costs more than it brings.
constexpr int64_t kBytesPerThread = 256 * 1024;
// An output that no cache holds until it is read again is written past the cache, and is a fresh
// mapping of the system rather than memory that was used before.
constexpr int64_t kStreamedBytes = 16 * 1024 * 1024;

// A copy whose stores pass the cache by: others first read the lines that they overwrite.
void stream_row(char* to, const char* from, int64_t bytes) {
#if defined(__SSE2__)
  constexpr int64_t kVector = sizeof(__m128i);
  const int64_t head = -static_cast<int64_t>(reinterpret_cast<uintptr_t>(to)) & (kVector - 1);
  if (bytes >= head + kVector) {
    std::memcpy(to, from, static_cast<size_t>(head));
    int64_t i = head;
    for (; i + kVector <= bytes; i += kVector) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    }
    std::memcpy(to + i, from + i, static_cast<size_t>(bytes - i));
    return;
  }
#endif
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

// Streamed stores become visible to other threads only behind a fence.
void finish_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <class T>
void scatter(const ScatterRowsParams& p, int num_threads) {
  using Acc = accumulate_t<T>;
  const T* grad = static_cast<const T*>(p.grad);
  T* out = static_cast<T*>(p.out);
  const int64_t* sorted_end = p.sorted_rows + p.total;
  const int64_t row_bytes = p.channels * int64_t{sizeof(T)};
  advise_huge_pages(out, p.num_rows * row_bytes);
  parallel_for(p.num_rows, kBytesPerThread / row_bytes + 1, num_threads,
               [&](int64_t begin, int64_t end) {
                 std::vector<const T*> repeats;
                 std::vector<Acc> ones;
                 const int64_t* next = std::lower_bound(p.sorted_rows, sorted_end, p.start + begin);
                 for (int64_t row = begin; row < end; ++row) {
                   repeats.clear();
                   for (; next != sorted_end && *next == p.start + row; ++next) {
                     repeats.push_back(grad + p.places[next - p.sorted_rows] * p.grad_stride);
                   }
                   ones.resize(std::max(ones.size(), repeats.size()), Acc{1});
                   weighted_sum(out + row * p.channels, nullptr, repeats.data(), ones.data(),
                                std::ssize(repeats), p.channels);
                 }
               });
}

}  // namespace

void pack_rows(const PackRowsParams& p, int num_threads) {
  if (p.row_bytes == 0) return;
  std::vector<int64_t> ends;  // of every source, in rows of the concatenation
  int64_t rows = 0;
  for (const RowSource& source : p.sources) ends.push_back(rows += source.num_rows);
  const bool streamed = p.total * p.row_bytes >= kStreamedBytes;
  if (streamed) advise_huge_pages(p.out, p.total * p.out_stride);
  parallel_for(
      p.total, kBytesPerThread / p.row_bytes + 1, num_threads, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          if (p.in_place && p.rows[r] < 0) continue;
          // The first source whose end lies beyond the row.
          const auto end_of = std::upper_bound(ends.begin(), ends.end(), p.rows[r]);
          const RowSource& source = p.sources[static_cast<size_t>(end_of - ends.begin())];
          const int64_t row = p.rows[r] - (*end_of - source.num_rows);
          char* to = static_cast<char*>(p.out) + r * p.out_stride;
          const char* from = static_cast<const char*>(source.data) + row * source.row_stride;
          if (streamed) {
            stream_row(to, from, p.row_bytes);
          } else {
            std::memcpy(to, from, static_cast<size_t>(p.row_bytes));
          }
        }
        if (streamed) finish_streaming();
      });
}

void scatter_rows(const ScatterRowsParams& params, int num_threads) {
  if (params.channels == 0) return;
  dispatch_float(params.dtype, "pack_tokens_backward",
                 [&](auto tag) { scatter<typename decltype(tag)::type>(params, num_threads); });
}

}  // namespace fastregion::cpu
