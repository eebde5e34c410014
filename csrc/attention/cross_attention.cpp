// CPU side of cross_attention; the equations are in the header, the loops in cross_attention.inc.
//
// A work item of the forward pass is a block of queries of one head of one sequence, of the
// gradient a key-value head of a sequence, or with few of them a part of its queries. Its keys and
// values are packed once in the accumulation type (or as pairs of bfloat16, where the CPU
// multiplies these), transposed and zero-padded, and stay in the L2 cache (0.5 MB for 729 keys of
// width 72) while the blocks pass by; only keys that are seen are packed, so hidden ones cost
// nothing. In the gradient all blocks of queries of an item pass by one block of keys after the
// other. Arithmetic is 4 * queries * keys * width operations a head, 10 for the gradient, of
// which nearly all are register-tiled multiply-adds.
//
// Items never share an output, and what is summed over items is summed in their order: the bits do
// not depend on the number of threads.
#include "attention/cross_attention.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <type_traits>
#include <vector>

#include "attention/attention_head.h"
#include "core/isa.h"
#include "core/parallel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define FASTREGION_ISA_BF16
#define FASTREGION_ISA_SOURCE "attention/cross_attention.inc"
#include "core/for_each_isa.h"

namespace fastregion::cpu {
namespace {

// A thread should get at least this many multiply-adds.
constexpr int64_t kWorkPerThread = 1 << 20;
// The gradient has about this many items or more, whatever the number of threads.
constexpr int64_t kGradientItems = 32;
constexpr int64_t kLineBytes = 64;    // the widest vector
constexpr int64_t kWidestPanel = 64;  // columns
static_assert(kQueryBlock <= kWidestPanel);

// Zeros on a vector boundary.
template <class Real>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : lines_(static_cast<size_t>((size * int64_t{sizeof(Real)} + kLineBytes - 1) / kLineBytes)) {}
  Real* data() { return reinterpret_cast<Real*>(lines_.data()); }

 private:
  struct alignas(kLineBytes) Line {
    char bytes[kLineBytes];
  };
  std::vector<Line> lines_;
};

struct Sequence {
  int64_t batch, first_query, num_queries, first_key, num_keys;
};

Sequence sequence_of(const CrossAttentionParams& p, int64_t s) {
  if (p.query_bounds == nullptr) return {s, 0, p.num_queries, 0, p.num_keys};
  const int64_t query = p.query_bounds[s], key = p.key_bounds[s];
  return {0, query, p.query_bounds[s + 1] - query, key, p.key_bounds[s + 1] - key};
}

int64_t most_keys(const CrossAttentionParams& p) {
  int64_t most = 0;
  for (int64_t s = 0; s < p.num_sequences; ++s) most = std::max(most, sequence_of(p, s).num_keys);
  return most;
}

int64_t blocks_of(const Sequence& sequence) {
  return (sequence.num_queries + kQueryBlock - 1) / kQueryBlock;
}

template <class T>
HeadRows<T> head_rows(const AttentionTensor& tensor, int64_t batch, int64_t token, int64_t head) {
  return {static_cast<T*>(tensor.data) + batch * tensor.batch_stride + token * tensor.token_stride +
              head * tensor.head_stride,
          tensor.token_stride};
}

// Elements of one row of a packed matrix, for the widest vector.
template <class Real>
int64_t widest_row(const CrossAttentionParams& p) {
  constexpr int64_t kLanes = kLineBytes / int64_t{sizeof(Real)};
  return (p.width + kLanes - 1) / kLanes * kLanes;
}

// The keys of one head, of one sequence after the other.
template <class T>
class Head {
 public:
  using Real = accumulate_t<T>;

  Head(const CrossAttentionParams& params, bool gradient)
      : params_(params),
        gradient_(gradient),
        capacity_(most_keys(params) + kWidestPanel),
        bias_(capacity_),
        row_(widest_row<Real>(params)),
        keys_(capacity_ * widest_row<Real>(params)),
        values_(capacity_ * widest_row<Real>(params)),
        key_rows_(gradient ? capacity_ * widest_row<Real>(params) : 0),
        visible_(static_cast<size_t>(kQueryBlock)) {}

  // The keys of a sequence that are seen: whose bias is not -inf.
  void choose_keys(int64_t s) {
    sequence_ = sequence_of(params_, s);
    index_.clear();
    const Real* bias = static_cast<const Real*>(params_.key_bias);
    if (bias != nullptr) bias += sequence_.batch * params_.bias_stride + sequence_.first_key;
    for (int64_t j = 0; j < sequence_.num_keys; ++j) {
      if (bias != nullptr) {
        if (bias[j] == -std::numeric_limits<Real>::infinity()) continue;
        bias_.data()[std::ssize(index_)] = bias[j] * std::numbers::log2e_v<Real>;
      }
      index_.push_back(j);
    }
  }

  // Does nothing where it is packed already.
  void pack(int64_t s, int64_t kv_head) {
    if (s != s_) choose_keys(s);
    if (s == s_ && kv_head == kv_head_) return;
    s_ = s;
    kv_head_ = kv_head;
    const auto keys =
        head_rows<const T>(params_.key, sequence_.batch, sequence_.first_key, kv_head);
    const auto values =
        head_rows<const T>(params_.value, sequence_.batch, sequence_.first_key, kv_head);
    FASTREGION_SELECT_ISA_BF16(T, pack_head<T>)
    (keys, values, index_.data(), std::ssize(index_), params_.width, gradient_, row_.data(),
     keys_.data(), values_.data(), key_rows_.data());
  }

  PackedKeys<Real> packed() {
    return {.count = std::ssize(index_),
            .bias = params_.key_bias == nullptr ? nullptr : bias_.data(),
            .keys = keys_.data(),
            .values = values_.data(),
            .key_rows = key_rows_.data()};
  }

  // Queries of `head` from `first` on; the next call overwrites what it points to.
  QueryRows<T> queries(int64_t head, int64_t first) {
    const Sequence& q = sequence_;
    const int64_t count = std::min(kQueryBlock, q.num_queries - first);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t limit = first + r + 1 + q.num_keys - q.num_queries;
      visible_[static_cast<size_t>(r)] =
          params_.causal ? std::ranges::lower_bound(index_, limit) - index_.begin()
                         : std::ssize(index_);
    }
    const int64_t token = q.first_query + first;
    return {.count = count,
            .visible = visible_.data(),
            .query = head_rows<const T>(params_.query, q.batch, token, head),
            .out = head_rows<const T>(params_.out, q.batch, token, head),
            .logsumexp = static_cast<const Real*>(params_.logsumexp) + place(head, first),
            .logsumexp_stride = params_.num_heads};
  }

  // Of a query in [batch, queries, heads].
  int64_t place(int64_t head, int64_t query) const {
    const int64_t token = sequence_.batch * params_.num_queries + sequence_.first_query + query;
    return token * params_.num_heads + head;
  }

  const Sequence& sequence() const { return sequence_; }
  const std::vector<int64_t>& index() const { return index_; }

 private:
  const CrossAttentionParams& params_;
  bool gradient_;
  int64_t capacity_;
  Buffer<Real> bias_, row_, keys_, values_, key_rows_;
  std::vector<int64_t> visible_, index_;
  Sequence sequence_{};
  int64_t s_ = -1, kv_head_ = -1;
};

template <class T>
void forward(const CrossAttentionParams& p, int num_threads) {
  using Real = accumulate_t<T>;
  std::vector<int64_t> first_item = {0};  // of every sequence
  for (int64_t s = 0; s < p.num_sequences; ++s)
    first_item.push_back(first_item.back() + p.num_heads * blocks_of(sequence_of(p, s)));
  const int64_t item_work = kQueryBlock * most_keys(p) * p.width;
  const auto body = [&](int64_t begin, int64_t end) {
    Head<T> keys(p, false);
    Buffer<Real> scratch(kQueryBlock * (2 * widest_row<Real>(p) + kKeyBlock + kWidestPanel));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t s = std::ranges::upper_bound(first_item, item) - first_item.begin() - 1;
      const int64_t blocks = blocks_of(sequence_of(p, s));
      const int64_t within = item - first_item[static_cast<size_t>(s)];
      const int64_t head = within / blocks, first = within % blocks * kQueryBlock;
      keys.pack(s, head / (p.num_heads / p.num_kv_heads));
      const Sequence& sequence = keys.sequence();
      const AttendedRows<T> to = {
          .out = head_rows<T>(p.out, sequence.batch, sequence.first_query + first, head),
          .logsumexp = static_cast<Real*>(p.logsumexp) + keys.place(head, first)};
      FASTREGION_SELECT_ISA_BF16(T, attend<T>)
      (keys.queries(head, first), to, keys.packed(), p.width, static_cast<Real>(p.scale),
       scratch.data());
    }
  };
  parallel_for(first_item.back(), kWorkPerThread / (item_work + 1) + 1, num_threads, body);
}

// Writes the sums of a key-value head, and zeros for the keys that nobody sees.
template <class T>
void store_rows(const accumulate_t<T>* sums, int64_t row, const std::vector<int64_t>& index,
                int64_t num_keys, int64_t width, accumulate_t<T> factor, HeadRows<T> to) {
  size_t next = 0;
  for (int64_t j = 0; j < num_keys; ++j) {
    T* out = to.data + j * to.stride;
    // Rows lie whole tokens apart: too far for the hardware to look ahead.
    const T* ahead = to.data + std::min(j + 8, num_keys - 1) * to.stride;
    for (int64_t c = 0; c < width; c += kLineBytes / int64_t{sizeof(T)})
      __builtin_prefetch(ahead + c, 1);
    if (next == index.size() || index[next] != j) {
      std::fill_n(out, width, from_float<T>(0));
      continue;
    }
    const accumulate_t<T>* from = sums + static_cast<int64_t>(next++) * row;
    for (int64_t c = 0; c < width; ++c) out[c] = from_float<T>(factor * from[c]);
  }
}

// Elements of a GradientBlock, whole lines; `block_rows` are those of one of its matrices.
constexpr int64_t gradient_block_size(int64_t block_rows) {
  return 3 * block_rows + 2 * kWidestPanel;
}

// What is summed over the queries of one key-value head, or over a part of them.
template <class Real>
KeyGradients<Real> key_gradients(const CrossAttentionGradients& wanted, Real* data,
                                 int64_t rows_size) {
  return {.keys = wanted.key.data == nullptr ? nullptr : data,
          .values = wanted.value.data == nullptr ? nullptr : data + rows_size,
          .bias = wanted.key_bias == nullptr ? nullptr : data + 2 * rows_size};
}

// Adds the gradients of some blocks of queries to those of the keys, and writes their own.
template <class T>
void add_gradients(const CrossAttentionParams& p, const CrossAttentionGradients& g, Head<T>& keys,
                   int64_t kv_head, int64_t first_block, int64_t end_block,
                   const KeyGradients<accumulate_t<T>>& sums, accumulate_t<T>* work,
                   accumulate_t<T>* scratch) {
  using Real = accumulate_t<T>;
  const Sequence& sequence = keys.sequence();
  const Real scale = static_cast<Real>(p.scale);
  const int64_t block_rows = kQueryBlock * FASTREGION_SELECT_ISA(padded<Real>)(p.width);
  const auto each_block = [&](auto&& use) {
    for (int64_t block = first_block; block < end_block; ++block) {
      const int64_t of_head = blocks_of(sequence);
      const int64_t head = kv_head * (p.num_heads / p.num_kv_heads) + block / of_head;
      const int64_t first = block % of_head * kQueryBlock;
      Real* at = work + (block - first_block) * gradient_block_size(block_rows);
      use(keys.queries(head, first),
          GradientBlock<Real>{.queries = at,
                              .grads = at + block_rows,
                              .grad_queries = at + 2 * block_rows,
                              .shift = at + 3 * block_rows,
                              .offset = at + 3 * block_rows + kWidestPanel},
          head, first);
    }
  };
  each_block(
      [&](const QueryRows<T>& block, const GradientBlock<Real>& to, int64_t head, int64_t first) {
        const Real* grad_logsumexp = static_cast<const Real*>(g.grad_logsumexp);
        if (grad_logsumexp != nullptr) grad_logsumexp += keys.place(head, first);
        const auto grad_out =
            head_rows<const T>(g.grad_out, sequence.batch, sequence.first_query + first, head);
        FASTREGION_SELECT_ISA(begin_gradient<T>)
        (block, {grad_out, grad_logsumexp}, to, p.width, scale);
      });
  for (int64_t first_key = 0; first_key < keys.packed().count; first_key += kGradientKeyBlock) {
    each_block([&](const QueryRows<T>& block, const GradientBlock<Real>& to, int64_t, int64_t) {
      FASTREGION_SELECT_ISA(attend_backward<T>)
      (block, to, keys.packed(), first_key, sums, g.query.data != nullptr, p.width, scratch);
    });
  }
  if (g.query.data == nullptr) return;
  each_block(
      [&](const QueryRows<T>& block, const GradientBlock<Real>& from, int64_t head, int64_t first) {
        const auto to = head_rows<T>(g.query, sequence.batch, sequence.first_query + first, head);
        FASTREGION_SELECT_ISA(end_gradient<T>)(from, block.count, p.width, scale, to);
      });
}

template <class T>
void backward(const CrossAttentionParams& p, const CrossAttentionGradients& g, int num_threads) {
  using Real = accumulate_t<T>;
  const bool with_bias = g.key_bias != nullptr;
  const int64_t group = p.num_heads / p.num_kv_heads, most = most_keys(p);
  const int64_t num_heads = p.num_sequences * p.num_kv_heads;
  const int64_t row = FASTREGION_SELECT_ISA(padded<Real>)(p.width);
  // With few heads the queries of each are split, and the parts added up at the end.
  int64_t most_blocks = 0;
  for (int64_t s = 0; s < p.num_sequences; ++s)
    most_blocks = std::max(most_blocks, group * blocks_of(sequence_of(p, s)));
  const int64_t parts =
      std::max<int64_t>(std::min(kGradientItems / std::max<int64_t>(num_heads, 1), most_blocks), 1);
  const int64_t rows_size = (most + 1) * row;
  const int64_t sums_size = (2 * rows_size + most + kLineBytes) / kLineBytes * kLineBytes;
  Buffer<Real> all_sums(parts == 1 ? 0 : num_heads * parts * sums_size);
  const int64_t bias_size = p.query_bounds == nullptr ? p.num_sequences * p.num_keys : p.num_keys;
  std::vector<Real> head_bias(static_cast<size_t>(with_bias ? p.num_kv_heads * bias_size : 0));

  const auto store = [&](const Head<T>& keys, int64_t kv_head, const KeyGradients<Real>& sums) {
    const Sequence& sequence = keys.sequence();
    const auto rows = [&](const Real* from, Real factor, const AttentionTensor& to) {
      if (from == nullptr) return;
      store_rows(from, row, keys.index(), sequence.num_keys, p.width, factor,
                 head_rows<T>(to, sequence.batch, sequence.first_key, kv_head));
    };
    rows(sums.keys, std::numbers::ln2_v<Real>, g.key);
    rows(sums.values, Real{1}, g.value);
    if (sums.bias == nullptr) return;
    Real* bias =
        head_bias.data() + kv_head * bias_size + sequence.batch * p.num_keys + sequence.first_key;
    for (size_t j = 0; j < keys.index().size(); ++j) bias[keys.index()[j]] = sums.bias[j];
  };

  const auto sum_part = [&](int64_t begin, int64_t end) {
    Head<T> keys(p, true);
    Buffer<Real> work((most_blocks + parts - 1) / parts * gradient_block_size(kQueryBlock * row));
    Buffer<Real> scratch(2 * kQueryBlock * (kGradientKeyBlock + kWidestPanel));
    Buffer<Real> own_sums(parts == 1 ? sums_size : 0);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t s = item / parts / p.num_kv_heads, kv_head = item / parts % p.num_kv_heads;
      keys.pack(s, kv_head);
      Real* data = parts == 1 ? own_sums.data() : all_sums.data() + item * sums_size;
      const KeyGradients<Real> sums = key_gradients(g, data, rows_size);
      if (parts == 1) {                                  // the others are zeros as they come
        const int64_t count = std::ssize(keys.index());  // not of the longest sequence
        for (Real* rows : {sums.keys, sums.values}) {
          if (rows != nullptr) std::fill_n(rows, count * row, Real{0});
        }
        if (sums.bias != nullptr) std::fill_n(sums.bias, count, Real{0});
      }
      const int64_t blocks = group * blocks_of(keys.sequence()), part = item % parts;
      add_gradients(p, g, keys, kv_head, blocks * part / parts, blocks * (part + 1) / parts, sums,
                    work.data(), scratch.data());
      if (parts == 1) store(keys, kv_head, sums);
    }
  };
  const int64_t item_work = 2 * group * p.num_queries * most * p.width / parts;
  parallel_for(num_heads * parts, kWorkPerThread / (item_work + 1) + 1, num_threads, sum_part);

  const auto add_parts = [&](int64_t begin, int64_t end) {
    Head<T> keys(p, true);
    for (int64_t item = begin; item < end; ++item) {
      keys.choose_keys(item / p.num_kv_heads);
      Real* sums = all_sums.data() + item * parts * sums_size;
      for (int64_t part = 1; part < parts; ++part) {
        for (int64_t k = 0; k < sums_size; ++k) sums[k] += sums[part * sums_size + k];
      }
      store(keys, item % p.num_kv_heads, key_gradients(g, sums, rows_size));
    }
  };
  if (parts > 1)
    parallel_for(num_heads, kWorkPerThread / (item_work + 1) + 1, num_threads, add_parts);
  if (!with_bias) return;
  Real* bias = static_cast<Real*>(g.key_bias);
  std::fill_n(bias, bias_size, Real{0});
  for (size_t k = 0; k < head_bias.size(); ++k)
    bias[k % static_cast<size_t>(bias_size)] += head_bias[k];
}

}  // namespace

void cross_attention(const CrossAttentionParams& params, int num_threads) {
  dispatch_float(params.dtype, "cross_attention",
                 [&](auto tag) { forward<typename decltype(tag)::type>(params, num_threads); });
}

void cross_attention_backward(const CrossAttentionParams& params,
                              const CrossAttentionGradients& gradients, int num_threads) {
  dispatch_float(params.dtype, "cross_attention_backward", [&](auto tag) {
    backward<typename decltype(tag)::type>(params, gradients, num_threads);
  });
}

}  // namespace fastregion::cpu
