// decode_attention: new tokens of many sequences attend to a cache, and may enter it on the way.
//
//   out[t, h, :] = sum over j of softmax_j(scale * q[t, h] . k[j, h / group]) v[j, h / group]
//   logsumexp[t, h] = log(sum over j of exp(scale * q[t, h] . k[j, h / group]))
//
//   q, out [T, H, D]   logsumexp [T, H]   keys, values: attention_cache.h   group = H / KV
//
// Sequence s of N has the tokens t in [bounds[s], bounds[s + 1]) (t = s without bounds), which are
// the last columns of its lengths[s] in row rows[s] (s without rows): the i-th of n sees the
// columns below lengths[s] - n + i + 1, and before these all prefix_lengths[g] columns of row g =
// prefix_of[s] of a second cache, unless g = -1. With k_new, v_new [T, KV, D] the tokens are first
// written to their columns.
//
// Columns are cut into chunks of a fixed size. A work item is a chunk of one kv head, of a sequence
// or of a prefix: keys and values are loaded once for all query heads, tokens and sequences that
// see them. It leaves, for every (token, head), the maximum m of its scores, l = sum of exp(s - m)
// and the weighted sum of values; these are merged in the order of the columns:
//
//   M = max m_c   L = sum of exp(m_c - M) l_c   out = sum of exp(m_c - M) sum_c / L
//   logsumexp = M + log L
//
// Sums in float32 (double for double), rounded once. Where the CPU multiplies pairs of bfloat16,
// the exponentials are rounded to it first, and L, for out, is the sum of the rounded. The cut
// depends on nothing but the lengths: deterministic, for any number of threads.
#pragma once

#include <cstdint>

#include "attention/attention_cache.h"
#include "core/dtype.h"
#ifdef FASTREGION_WITH_CUDA
#include "core/stream.h"
#endif

namespace fastregion {

struct DecodeAttentionParams {
  DType dtype;       // of queries, out and caches
  TokenHeads query;  // [T, H, D]
  void* out;         // [T, H, D]
  void* logsumexp;   // [T, H] float32, float64 for float64
  KvCache cache;
  TokenHeads k_new, v_new;        // [T, KV, D]; data is null where nothing is to be written
  const int32_t* lengths;         // [N]
  const int32_t* bounds;          // [N + 1], or null: one token each
  const int32_t* rows;            // [N], or null: sequence s in row s
  KvCache prefix;                 // keys are null without prefixes
  const int32_t* prefix_lengths;  // [G]
  const int32_t* prefix_of;       // [N]
  int64_t num_sequences, num_tokens, num_heads, num_kv_heads, width;
  double scale;
};

namespace cpu {
// Throws std::invalid_argument for lengths, rows, groups or bounds that do not exist.
void decode_attention(const DecodeAttentionParams& params, int num_threads);
}  // namespace cpu

#ifdef FASTREGION_WITH_CUDA
namespace cuda {
// On the current device. Numbers are read on the device alone: lengths are cut to the capacity, a
// row or prefix that does not exist is empty.
void decode_attention(const DecodeAttentionParams& params, void* workspace, cudaStream_t stream);
// Bytes of workspace.
int64_t decode_attention_workspace(const DecodeAttentionParams& params);
}  // namespace cuda
#endif

}  // namespace fastregion
