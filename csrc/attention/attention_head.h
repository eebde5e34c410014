// What the loops of cross_attention work on: a block of queries and the keys of one head, packed.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace fastregion {

// Queries of one head that are worked on together: every key panel in the L1 cache serves them all.
// A multiple of the rows of every register tile.
inline constexpr int64_t kQueryBlock = 60;

// Keys whose scores are held for a block of queries; blocks of keys follow each other.
inline constexpr int64_t kKeyBlock = 512;
inline constexpr int64_t kGradientKeyBlock = 256;

// Rows of a tensor of tokens, one head of it.
template <class T>
struct HeadRows {
  T* data;
  int64_t stride;
};

// Only the keys that are seen at all, one behind the other: what lies in the others is never read.
// An instruction set may keep keys and values as pairs of bfloat16 in the place of these numbers.
template <class Real>
struct PackedKeys {
  int64_t count;
  const Real* bias;      // [count], times log2(e); null for none
  const Real* keys;      // panels of columns, see pack_columns
  const Real* values;    // forward: rows, see pack_rows; gradient: panels of columns
  const Real* key_rows;  // gradient only
};

template <class T>
struct QueryRows {
  int64_t count;
  const int64_t* visible;  // [count] how many of the packed keys each query sees, never falling
  HeadRows<const T> query, out;
  const accumulate_t<T>* logsumexp;  // from query to query: logsumexp_stride
  int64_t logsumexp_stride;
};

template <class T>
struct AttendedRows {
  HeadRows<T> out;
  accumulate_t<T>* logsumexp;
};

template <class T>
struct GradientRows {
  HeadRows<const T> grad_out;
  const accumulate_t<T>* grad_logsumexp;  // null for zeros; strides as logsumexp
};

// A block of queries that meets one block of keys after the other.
template <class Real>
struct GradientBlock {
  Real* queries;       // [kQueryBlock, row_width], times the scale and log2(e)
  Real* grads;         // [kQueryBlock, row_width], of out
  Real* grad_queries;  // [kQueryBlock, row_width], without the scale
  Real* shift;         // [kQueryBlock], logsumexp in units of log(2)
  Real* offset;        // [kQueryBlock], D
};

// Sums over the queries, for the packed keys; null where not wanted.
template <class Real>
struct KeyGradients {
  Real* keys;    // [count, row_width], without the factor ln(2)
  Real* values;  // [count, row_width]
  Real* bias;    // [count]
};

}  // namespace fastregion
