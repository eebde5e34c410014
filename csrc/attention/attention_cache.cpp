// CPU side of append_kv; the layout is in the header. Traffic: every token read once, written once.
#include "attention/attention_cache.h"

#include "core/error.h"
#include "core/huge_pages.h"
#include "core/parallel.h"

namespace fastregion::cpu {
namespace {

constexpr int64_t kElementsPerThread = 16 * 1024;

template <class Word>
void append(const AppendParams& p, int num_threads) {
  const int64_t grain = kElementsPerThread / (p.num_kv_heads * p.width + 1) + 1;
  parallel_for(p.num_tokens, grain, num_threads, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      for (int64_t head = 0; head < p.num_kv_heads; ++head) {
        const int64_t row = kv_row(p.cache, p.rows[token], p.num_kv_heads, head, p.width);
        const int64_t column = p.columns[token];
        const auto from = [&](const TokenHeads& tokens) {
          return static_cast<const Word*>(tokens.data) + token * tokens.token_stride +
                 head * tokens.head_stride;
        };
        const Word *k = from(p.k_new), *v = from(p.v_new);
        Word* keys = static_cast<Word*>(p.cache.keys) + row + key_offset(column, 0, p.width);
        Word* values = static_cast<Word*>(p.cache.values) + row + value_offset(column, 0, p.width);
        for (int64_t d = 0; d < p.width; d += 2) {
          keys[key_offset(0, d, p.width)] = k[d];
          keys[key_offset(0, d, p.width) + 1] = k[d + 1];
        }
        for (int64_t d = 0; d < p.width; ++d) values[2 * d] = v[d];
      }
    }
  });
}

}  // namespace

void append_kv(const AppendParams& params, int num_threads) {
  for (int64_t token = 0; token < params.num_tokens; ++token) {
    const int64_t row = params.rows[token], column = params.columns[token];
    check(0 <= row && row < params.cache.num_rows && 0 <= column &&
              column < kv_capacity(params.cache),
          "append_kv_: rows must be below ", params.cache.num_rows,
          " and columns below the capacity ", kv_capacity(params.cache), ", got row ", row,
          " and column ", column, " for token ", token);
  }
  dispatch_word(params.dtype, "append_kv_", [&](auto tag) {
    using Word = typename decltype(tag)::type;
    if (params.num_tokens >= kKvBlock) {  // a prompt: the first to touch the cache
      const int64_t bytes =
          kv_row(params.cache, params.cache.num_rows, params.num_kv_heads, 0, params.width) *
          int64_t{sizeof(Word)};
      advise_huge_pages(params.cache.keys, bytes);
      advise_huge_pages(params.cache.values, bytes);
    }
    append<Word>(params, num_threads);
  });
}

}  // namespace fastregion::cpu
