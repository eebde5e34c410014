// CPU side of pack_tokens; the equations are in the header.
//
// Traffic: total rows read + written, the minimum of a copy. The gradient writes every row of the
// source once: zeros, a copied row, or the sum of the rows that repeat.
#include "packing/pack_tokens.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/parallel.h"
#include "core/rows.h"

namespace fastregion::cpu {
namespace {

// Below this many copied bytes a second thread costs more than it brings.
constexpr int64_t kBytesPerThread = 256 * 1024;

template <class T>
void scatter(const ScatterRowsParams& p, int num_threads) {
  using Acc = accumulate_t<T>;
  const T* grad = static_cast<const T*>(p.grad);
  T* out = static_cast<T*>(p.out);
  // (row of the source, row of the gradient), grouped by the former, in order of the latter.
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t r = 0; r < p.total; ++r) {
    const int64_t row = p.rows[r] - p.start;
    if (row >= 0 && row < p.num_rows) pairs.emplace_back(row, r);
  }
  if (!std::is_sorted(pairs.begin(), pairs.end())) std::sort(pairs.begin(), pairs.end());

  const int64_t row_bytes = p.channels * int64_t{sizeof(T)};
  parallel_for(
      p.num_rows, kBytesPerThread / row_bytes + 1, num_threads, [&](int64_t begin, int64_t end) {
        std::vector<const T*> repeats;
        std::vector<Acc> ones;
        auto next = std::lower_bound(pairs.begin(), pairs.end(), std::pair{begin, int64_t{0}});
        for (int64_t row = begin; row < end; ++row) {
          repeats.clear();
          for (; next != pairs.end() && next->first == row; ++next) {
            repeats.push_back(grad + next->second * p.grad_stride);
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
  parallel_for(p.total, kBytesPerThread / p.row_bytes + 1, num_threads,
               [&](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r) {
                   // The first source whose end lies beyond the row.
                   const auto end_of = std::upper_bound(ends.begin(), ends.end(), p.rows[r]);
                   const RowSource& source = p.sources[static_cast<size_t>(end_of - ends.begin())];
                   const int64_t row = p.rows[r] - (*end_of - source.num_rows);
                   std::memcpy(static_cast<char*>(p.out) + r * p.row_bytes,
                               static_cast<const char*>(source.data) + row * source.row_stride,
                               static_cast<size_t>(p.row_bytes));
                 }
               });
}

void scatter_rows(const ScatterRowsParams& params, int num_threads) {
  if (params.channels == 0) return;
  dispatch_float(params.dtype, "pack_tokens_backward",
                 [&](auto tag) { scatter<typename decltype(tag)::type>(params, num_threads); });
}

}  // namespace fastregion::cpu
