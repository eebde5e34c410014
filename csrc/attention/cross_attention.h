// cross_attention: softmax attention in one pass over the keys, no score matrix in memory.
//
//   s[i, h, j] = scale * q[i, h, :] . k[j, h / group, :] + key_bias[j]
//   out[i, h, :] = sum over j of softmax_j(s)[i, h, j] * v[j, h / group, :]
//   logsumexp[i, h] = log(sum over j of exp(s[i, h, j]))
//   gradient, with P = exp(s - logsumexp), D[i, h] = dout . out - dlogsumexp, dP = dout . v:
//     dS = P * (dP - D)   dq = scale * dS k   dk = scale * dS^T q   dv = P^T dout   dbias = sum dS
//
// for every sequence by itself. Sequences lie one behind the other in a packed batch, whose
// boundaries are cu_seqlens, or at equal distances in a dense one. With `causal` query i of a
// sequence sees the keys j <= i + num_keys - num_queries (the ends are aligned). A query that sees
// no key, or only keys of bias -inf, gives out = 0, logsumexp = -inf and no gradient; what lies in
// a key or value that a query does not see, NaN included, never reaches it.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#ifdef FASTREGION_WITH_CUDA
#include "core/stream.h"
#endif

namespace fastregion {

// [batch, token, head, width] with contiguous width; strides in elements. Packed tensors have no
// batch: their tokens are counted through.
struct AttentionTensor {
  void* data;
  int64_t batch_stride, token_stride, head_stride;
};

struct CrossAttentionParams {
  DType dtype;  // of all tensors but bias and logsumexp
  AttentionTensor query, key, value, out;
  const void* key_bias;         // [batch, keys] or [all keys], float32 (float64 for float64)
  int64_t bias_stride;          // elements from batch to batch; 0 when packed
  void* logsumexp;              // [batch, queries, heads] contiguous, dtype as key_bias
  const int32_t* query_bounds;  // cu_seqlens [num_sequences + 1]; null when dense
  const int32_t* key_bounds;
  int64_t num_sequences;
  int64_t num_queries, num_keys;  // of each sequence when dense, of all when packed
  int64_t num_heads, num_kv_heads, width;
  double scale;
  bool causal;
};

struct CrossAttentionGradients {
  AttentionTensor grad_out;           // read
  const void* grad_logsumexp;         // read; null for zeros
  AttentionTensor query, key, value;  // written; data is null where not wanted
  void* key_bias;                     // written, as key_bias above; null where not wanted
};

namespace cpu {
void cross_attention(const CrossAttentionParams& params, int num_threads);
// Reads out and logsumexp of the forward pass.
void cross_attention_backward(const CrossAttentionParams& params,
                              const CrossAttentionGradients& gradients, int num_threads);
}  // namespace cpu

#ifdef FASTREGION_WITH_CUDA
namespace cuda {
// On the current device. `workspace` of the gradient has the bytes that cross_attention_workspace
// returns; it is aligned as any allocation of torch's and holds nothing.
int64_t cross_attention_workspace(const CrossAttentionParams& params);
void cross_attention(const CrossAttentionParams& params, cudaStream_t stream);
void cross_attention_backward(const CrossAttentionParams& params,
                              const CrossAttentionGradients& gradients, void* workspace,
                              cudaStream_t stream);
}  // namespace cuda
#endif

}  // namespace fastregion
