// pack_tokens: rows of several sources, as if they were concatenated, gathered into packed prompts.
//
//   out[r, :] = source s row rows[r] - start[s],  start[s] <= rows[r] < start[s + 1]
//   in place: out[r, :] stays as it is where rows[r] < 0
//   gradient: grad_source[n, :] = sum over r with rows[r] = start[s] + n of grad[r, :]
//
//   source s [N_s, D], rows [total] int64, out and grad [total, D].  start[s] = N_0 + ... + N_(s-1)
//
// The forward is a copy, so it knows no dtype. The gradient is summed in float32 (double for
// double) in the order of r, rounded once. Deterministic: it gathers what a row was copied to,
// through the places r sorted by rows[r], instead of adding to the rows.
#pragma once

#include <cstdint>
#include <vector>

#include "core/dtype.h"
#ifdef FASTREGION_WITH_CUDA
#include "core/stream.h"
#endif

namespace fastregion {

struct RowSource {
  const void* data;
  int64_t num_rows, row_stride;  // stride in bytes
};

struct PackRowsParams {
  std::vector<RowSource> sources;
  const int64_t* rows;  // [total]
  void* out;
  int64_t out_stride;  // in bytes
  int64_t total, row_bytes;
  bool in_place;  // negative rows stay; otherwise there are none
};

struct ScatterRowsParams {
  DType dtype;
  const void* grad;            // [total, D]
  int64_t grad_stride;         // in elements
  const int64_t* sorted_rows;  // [total] ascending
  const int64_t* places;       // [total]: sorted_rows[k] = rows[places[k]]; equal rows ascending
  int64_t total;
  int64_t start, num_rows;  // of the source whose gradient this is
  void* out;                // [num_rows, D] contiguous
  int64_t channels;
};

namespace cpu {
void pack_rows(const PackRowsParams& params, int num_threads);
void scatter_rows(const ScatterRowsParams& params, int num_threads);
}  // namespace cpu

#ifdef FASTREGION_WITH_CUDA
namespace cuda {
inline constexpr int kMaxSources = 16;  // of one launch; fastregion/ops/pack_rows.py knows it
// On the current device. Rows are not checked: one beyond the sources is zeros in the forward and
// nobody's in the gradient.
void pack_rows(const PackRowsParams& params, cudaStream_t stream);
void scatter_rows(const ScatterRowsParams& params, cudaStream_t stream);
}  // namespace cuda
#endif

}  // namespace fastregion
