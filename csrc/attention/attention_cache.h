// The layout of keys and values that attention decodes from, and the operator that fills it.
//
//   keys   [S, KV, B, D / 2, 16, 2]   keys[s, h, b, d, j, e]   = k[s, h, 16 b + j, 2 d + e]
//   values [S, KV, B, 8, D, 2]        values[s, h, b, j, d, e] = v[s, h, 16 b + 2 j + e, d]
//
// S rows of B blocks of 16 columns, KV heads of width D. A block of 16 * D elements lies in one
// piece, and the blocks of a row and head one behind the other. The innermost pairs are the
// operands of one multiply-add of pairs: 16 scores, or a vector of output channels, grow side by
// side.
//
//   append_kv: column c_t of row r_t becomes k_new[t, :, :], v_new[t, :, :], for T tokens
#pragma once

#include <cstdint>

#include "core/dtype.h"
#ifdef FASTREGION_WITH_CUDA
#include "core/stream.h"
#endif

namespace fastregion {

inline constexpr int64_t kKvBlock = 16;  // columns

struct KvCache {
  void* keys;
  void* values;
  int64_t num_rows, num_blocks;
};

constexpr int64_t kv_capacity(const KvCache& cache) { return cache.num_blocks * kKvBlock; }

// Elements to the first block of a row and head, the same for keys and values.
constexpr int64_t kv_row(const KvCache& cache, int64_t row, int64_t num_kv_heads, int64_t kv_head,
                         int64_t width) {
  return (row * num_kv_heads + kv_head) * cache.num_blocks * kKvBlock * width;
}

// Elements from there to channel d of a column.
constexpr int64_t key_offset(int64_t column, int64_t d, int64_t width) {
  return column / kKvBlock * kKvBlock * width + d / 2 * kKvBlock * 2 + column % kKvBlock * 2 +
         d % 2;
}
constexpr int64_t value_offset(int64_t column, int64_t d, int64_t width) {
  return column / 2 * width * 2 + d * 2 + column % 2;
}

// Tokens [T, H, D] with contiguous width; strides in elements.
struct TokenHeads {
  const void* data;
  int64_t token_stride, head_stride;
};

struct AppendParams {
  DType dtype;
  KvCache cache;
  TokenHeads k_new, v_new;  // [T, KV, D]
  const int64_t* rows;      // [T]
  const int64_t* columns;   // [T]
  int64_t num_tokens, num_kv_heads, width;
};

// Calls body(TypeTag<Word>{}) with an unsigned type as wide as an element: copies preserve bits.
template <class Body>
decltype(auto) dispatch_word(DType dtype, const char* op, Body&& body) {
  switch (dtype) {
    case DType::kFloat16:
    case DType::kBFloat16:
      return body(TypeTag<uint16_t>{});
    case DType::kFloat32:
      return body(TypeTag<uint32_t>{});
    case DType::kFloat64:
      return body(TypeTag<uint64_t>{});
    default:
      fail(op, ": dtype must be float32, float16, bfloat16 or float64, got code ",
           static_cast<int>(dtype));
  }
}

namespace cpu {
// Throws std::invalid_argument for places outside of the cache, before anything is written.
void append_kv(const AppendParams& params, int num_threads);
}  // namespace cpu

#ifdef FASTREGION_WITH_CUDA
namespace cuda {
// On the current device. Places outside of the cache are left out.
void append_kv(const AppendParams& params, cudaStream_t stream);
}  // namespace cuda
#endif

}  // namespace fastregion
