// CPU side of decode_attention; the equations are in the header.
//
// Traffic: every key and value that is seen once from memory, however many heads, tokens and
// sequences see it; results of chunks are 1 / 128 of that for four query heads and stay in the
// cache. A prefix that five sequences of four heads share is bound by arithmetic, and what each has
// of its own by memory: the second is fetched while the first is worked on. Work is split over
// chunks; then over (token, head) to merge.
#include "attention/decode_attention.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <numbers>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "core/rows.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastregion {
namespace {

constexpr int64_t kColumns = 512;  // of a chunk
constexpr int64_t kTileRows = 20;  // of the widest instruction set
// The weights of a tile's rows must not fall into the same sets of the cache.
constexpr int64_t kWeightRow = kColumns + 16;
constexpr int64_t kBytesAhead = 512 * 1024;  // half of a usual L2 cache
// Below this many elements of keys and values a second thread costs more than it brings.
constexpr int64_t kElementsPerThread = 64 * 1024;
constexpr int64_t kMergedPerThread = 16 * 1024;

template <class Acc>
struct DecodeSum {
  Acc maximum, total;  // of the scores; of exp(score - maximum)
  Acc weight;          // total of the weights: these, perhaps rounded
};

// One query head of one token, and where its part goes.
template <class T>
struct DecodeRow {
  const T* query;  // [width]
  int64_t seen;    // columns of the chunk
  DecodeSum<accumulate_t<T>>* result;
  accumulate_t<T>* sum;  // [width]
};

// Memory that is read soon, brought near meanwhile: one piece after the other, line by line.
struct DecodeAhead {
  struct Piece {
    const char *begin, *end;
  };
  const Piece* piece = nullptr;  // the next one
  const Piece* last = nullptr;   // behind the last one
  const char *line = nullptr, *end = nullptr;
};

// A chunk of one kv head, and all that looks at it.
template <class T>
struct DecodeChunk {
  const T* keys;  // from the first column of the chunk on
  const T* values;
  int64_t width;
  accumulate_t<T> scale;
  const DecodeRow<T>* rows;
  int64_t num_rows;
  DecodeAhead* ahead;
  accumulate_t<T>* query;    // scratch [width, kTileRows]
  accumulate_t<T>* weights;  // scratch [kTileRows, kWeightRow], on a cache line
};

}  // namespace
}  // namespace fastregion

#define FASTREGION_ISA_BF16
#define FASTREGION_ISA_SOURCE "attention/decode_attention.inc"
#include "core/for_each_isa.h"

namespace fastregion::cpu {
namespace {

constexpr int64_t chunks_of(int64_t columns) { return (columns + kColumns - 1) / kColumns; }

// A row of a cache, and the tokens that attend to it: a sequence, or the prefix of a group.
struct Unit {
  const KvCache* cache;
  int64_t row, length;
  int64_t group;                    // of the prefix, or -1
  int64_t first_slot;               // of its chunks, among the parts of a token
  int64_t first_token, num_tokens;  // in Plan::tokens
  bool appends;
};

struct Token {
  int64_t index;
  int64_t seen;  // columns of the unit
};

struct Item {
  int64_t unit, kv_head, chunk;
};

struct Plan {
  std::vector<Unit> units;
  std::vector<Token> tokens;
  std::vector<Item> items;
  std::vector<int64_t> prefix_chunks, own_chunks;  // [T] parts of every token
  int64_t own_slot = 0, num_slots = 0;
};

int64_t bound(const DecodeAttentionParams& p, int64_t s) {
  return p.bounds == nullptr ? s : p.bounds[s];
}

// Adds a unit without tokens; `plan.tokens` gets them next.
Unit& add_unit(Plan& plan, const KvCache& cache, int64_t row, int64_t length, int64_t group,
               int64_t first_slot, bool appends) {
  return plan.units.emplace_back(Unit{.cache = &cache,
                                      .row = row,
                                      .length = length,
                                      .group = group,
                                      .first_slot = first_slot,
                                      .first_token = std::ssize(plan.tokens),
                                      .num_tokens = 0,
                                      .appends = appends});
}

Plan make_plan(const DecodeAttentionParams& p) {
  Plan plan;
  plan.prefix_chunks.resize(static_cast<size_t>(p.num_tokens));
  plan.own_chunks.resize(static_cast<size_t>(p.num_tokens));
  const auto at = [](auto& values, int64_t i) -> auto& { return values[static_cast<size_t>(i)]; };
  const auto add_tokens = [&](Unit& unit, int64_t s, bool all) {
    const int64_t begin = bound(p, s), end = bound(p, s + 1);
    for (int64_t t = begin; t < end; ++t) {
      const int64_t seen = unit.length - (end - t) + 1;
      plan.tokens.push_back({.index = t, .seen = all ? unit.length : std::max<int64_t>(seen, 0)});
      at(all ? plan.prefix_chunks : plan.own_chunks, t) = chunks_of(unit.length);
    }
    unit.num_tokens += end - begin;
  };
  if (p.prefix.keys != nullptr) {
    std::vector<std::vector<int64_t>> members(static_cast<size_t>(p.prefix.num_rows));
    for (int64_t s = 0; s < p.num_sequences; ++s) {
      if (p.prefix_of[s] >= 0) at(members, p.prefix_of[s]).push_back(s);
    }
    for (int64_t g = 0; g < p.prefix.num_rows; ++g) {
      Unit& unit = add_unit(plan, p.prefix, g, p.prefix_lengths[g], g, 0, false);
      for (const int64_t s : at(members, g)) add_tokens(unit, s, true);
      plan.own_slot = std::max(plan.own_slot, chunks_of(unit.length));
    }
  }
  plan.num_slots = plan.own_slot;
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    const int64_t row = p.rows == nullptr ? s : p.rows[s];
    const int64_t group = p.prefix.keys == nullptr ? -1 : p.prefix_of[s];
    Unit& unit =
        add_unit(plan, p.cache, row, p.lengths[s], group, plan.own_slot, p.k_new.data != nullptr);
    add_tokens(unit, s, false);
    plan.num_slots = std::max(plan.num_slots, plan.own_slot + chunks_of(unit.length));
  }
  for (int64_t u = 0; u < std::ssize(plan.units); ++u) {
    const Unit& unit = at(plan.units, u);
    if (unit.num_tokens == 0) continue;
    for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
      for (int64_t chunk = 0; chunk < chunks_of(unit.length); ++chunk) {
        plan.items.push_back({.unit = u, .kv_head = kv_head, .chunk = chunk});
      }
    }
  }
  if (p.prefix.keys != nullptr) {  // a prefix, and then what its sequences have of their own
    std::ranges::stable_sort(plan.items, {}, [&](const Item& item) {
      return std::pair(at(plan.units, item.unit).group, item.kv_head);
    });
  }
  return plan;
}

// Writes the unit's new tokens that fall into columns [begin, end), where keys and values begin.
template <class T>
void append(const DecodeAttentionParams& p, const Plan& plan, const Unit& unit, int64_t kv_head,
            int64_t begin, int64_t end, T* keys, T* values) {
  const Token* tokens = plan.tokens.data() + unit.first_token;
  for (const Token* token = tokens; token < tokens + unit.num_tokens; ++token) {
    const int64_t column = token->seen - 1;
    if (column < begin || column >= end) continue;
    const auto from = [&](const TokenHeads& heads) {
      return static_cast<const T*>(heads.data) + token->index * heads.token_stride +
             kv_head * heads.head_stride;
    };
    const T *k = from(p.k_new), *v = from(p.v_new);
    for (int64_t d = 0; d < p.width; ++d) {
      keys[key_offset(column - begin, d, p.width)] = k[d];
      values[value_offset(column - begin, d, p.width)] = v[d];
    }
  }
}

// Scratch of a call. What one decoding step takes stays with the thread: the allocator would hand
// such a size back to the system and fault it in anew, at 1.5 ms a huge page.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    thread_local std::vector<std::byte> kept;
    if (bytes <= kMostKept) {
      if (kept.size() < bytes) kept.resize(bytes);
      data_ = kept.data();
    } else {
      own_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      data_ = own_.get();
    }
  }
  std::byte* data() const { return data_; }

 private:
  static constexpr size_t kMostKept = size_t{4} << 20;
  std::unique_ptr<std::byte[]> own_;
  std::byte* data_;
};

// All parts [T, H, slots] of the results.
template <class T>
struct Parts {
  using Sum = DecodeSum<accumulate_t<T>>;
  Parts(int64_t count, int64_t width)
      : scratch(static_cast<size_t>(count) *
                (sizeof(Sum) + static_cast<size_t>(width) * sizeof(accumulate_t<T>))),
        results(reinterpret_cast<Sum*>(scratch.data())),
        sums(reinterpret_cast<accumulate_t<T>*>(results + count)) {}
  Scratch scratch;
  Sum* results;           // [T, H, slots]
  accumulate_t<T>* sums;  // [T, H, slots, width]
};

// Keys and values of an item.
template <class T>
struct ItemRows {
  T *keys, *values;
  int64_t begin, end;  // columns

  ItemRows(const DecodeAttentionParams& p, const Unit& unit, const Item& item)
      : begin(item.chunk * kColumns), end(std::min(begin + kColumns, unit.length)) {
    const int64_t start =
        kv_row(*unit.cache, unit.row, p.num_kv_heads, item.kv_head, p.width) + begin * p.width;
    keys = static_cast<T*>(unit.cache->keys) + start;
    values = static_cast<T*>(unit.cache->values) + start;
  }
};

// What the sequences of a group have of their own for a kv head, which begins with `item`, a chunk
// of the prefix: so much of it that it stays in the cache.
template <class T>
void look_ahead(const DecodeAttentionParams& p, const Plan& plan, int64_t item, int64_t last,
                std::vector<DecodeAhead::Piece>& pieces) {
  const Item& first = plan.items[static_cast<size_t>(item)];
  const int64_t group = plan.units[static_cast<size_t>(first.unit)].group;
  pieces.clear();
  for (int64_t bytes = 0; item < last && bytes < kBytesAhead; ++item) {
    const Item& next = plan.items[static_cast<size_t>(item)];
    const Unit& unit = plan.units[static_cast<size_t>(next.unit)];
    if (next.kv_head != first.kv_head || unit.group != group) break;
    if (next.unit == first.unit) continue;
    const ItemRows<T> rows(p, unit, next);
    const int64_t size = (rows.end - rows.begin) * p.width * int64_t{sizeof(T)};
    for (const T* from : {rows.keys, rows.values}) {
      const char* begin = reinterpret_cast<const char*>(from);
      pieces.push_back({begin, begin + size});
    }
    bytes += 2 * size;
  }
}

template <class T>
void attend(const DecodeAttentionParams& p, const Plan& plan, const Parts<T>& parts,
            int num_threads) {
  using Acc = accumulate_t<T>;
  const int64_t group = p.num_heads / p.num_kv_heads;
  const auto body = [&](int64_t first, int64_t last) {
    struct alignas(64) Line {
      Acc values[64 / sizeof(Acc)];
    };
    std::vector<Line> weights(kTileRows * kWeightRow * sizeof(Acc) / sizeof(Line));
    std::vector<Acc> query(static_cast<size_t>(kTileRows * p.width));
    std::vector<DecodeRow<T>> rows;
    std::vector<DecodeAhead::Piece> pieces;
    DecodeAhead ahead;
    for (int64_t i = first; i < last; ++i) {
      const Item& item = plan.items[static_cast<size_t>(i)];
      const Unit& unit = plan.units[static_cast<size_t>(item.unit)];
      const auto [keys, values, begin, end] = ItemRows<T>(p, unit, item);
      if (unit.appends) append(p, plan, unit, item.kv_head, begin, end, keys, values);
      if (unit.cache == &p.prefix && item.chunk == 0) {
        look_ahead<T>(p, plan, i, last, pieces);
        ahead = {.piece = pieces.data(), .last = pieces.data() + pieces.size()};
      }
      rows.clear();
      for (int64_t k = 0; k < unit.num_tokens; ++k) {
        const Token& token = plan.tokens[static_cast<size_t>(unit.first_token + k)];
        for (int64_t h = item.kv_head * group; h < (item.kv_head + 1) * group; ++h) {
          const int64_t part =
              (token.index * p.num_heads + h) * plan.num_slots + unit.first_slot + item.chunk;
          rows.push_back({.query = static_cast<const T*>(p.query.data) +
                                   token.index * p.query.token_stride + h * p.query.head_stride,
                          .seen = std::clamp<int64_t>(token.seen - begin, 0, end - begin),
                          .result = parts.results + part,
                          .sum = parts.sums + part * p.width});
        }
      }
      FASTREGION_SELECT_ISA_BF16(T, decode::attend_chunk<T>)
      ({.keys = keys,
        .values = values,
        .width = p.width,
        .scale = static_cast<Acc>(p.scale),
        .rows = rows.data(),
        .num_rows = std::ssize(rows),
        .ahead = &ahead,
        .query = query.data(),
        .weights = weights.front().values});
    }
  };
  const int64_t elements = 2 * kColumns * p.width;
  parallel_for(std::ssize(plan.items), kElementsPerThread / elements + 1, num_threads, body);
}

template <class T>
void merge(const DecodeAttentionParams& p, const Plan& plan, const Parts<T>& parts,
           int num_threads) {
  using Acc = accumulate_t<T>;
  const auto body = [&](int64_t first, int64_t last) {
    std::vector<const Acc*> sums;
    std::vector<Acc> weights;
    for (int64_t i = first; i < last; ++i) {  // (token, head)
      const size_t token = static_cast<size_t>(i / p.num_heads);
      sums.clear();
      weights.clear();
      Acc maximum = -std::numeric_limits<Acc>::infinity(), total = 0, weight = 0;
      const auto each_part = [&](auto&& use) {
        const auto range = [&](int64_t begin, int64_t count) {
          for (int64_t slot = begin; slot < begin + count; ++slot) {
            const int64_t part = i * plan.num_slots + slot;
            const DecodeSum<Acc>& result = parts.results[part];
            if (result.total != 0) use(result, part);  // 0: nothing was seen
          }
        };
        range(0, plan.prefix_chunks[token]);
        range(plan.own_slot, plan.own_chunks[token]);
      };
      each_part([&](const DecodeSum<Acc>& result, int64_t) {
        maximum = std::max(maximum, result.maximum);
      });
      each_part([&](const DecodeSum<Acc>& result, int64_t part) {
        weights.push_back(std::exp(result.maximum - maximum));
        sums.push_back(parts.sums + part * p.width);
        total += weights.back() * result.total;
        weight += weights.back() * result.weight;
      });
      for (Acc& part : weights) part /= weight;
      weighted_sum(static_cast<T*>(p.out) + i * p.width, nullptr, sums.data(), weights.data(),
                   std::ssize(sums), p.width);
      static_cast<Acc*>(p.logsumexp)[i] = sums.empty() ? maximum : maximum + std::log(total);
    }
  };
  parallel_for(p.num_tokens * p.num_heads, kMergedPerThread / p.width + 1, num_threads, body);
}

// The messages of _refuse_bad_numbers in fastregion/ops/decode_attention.py.
void refuse_outside(const char* what, const int32_t* numbers, int64_t count, int64_t lowest,
                    int64_t highest) {
  for (int64_t i = 0; i < count; ++i) {
    check(lowest <= numbers[i] && numbers[i] <= highest, "decode_attention: ", what, " must be ",
          lowest, " to ", highest, ", got ", numbers[i], " at ", i);
  }
}

void refuse_bad_numbers(const DecodeAttentionParams& p) {
  bool rises = bound(p, 0) == 0 && bound(p, p.num_sequences) == p.num_tokens;
  for (int64_t s = 0; s < p.num_sequences; ++s) rises = rises && bound(p, s) <= bound(p, s + 1);
  check(rises, "decode_attention: cu_seqlens_q must rise from 0 to the ", p.num_tokens,
        " tokens of q");
  refuse_outside("lengths", p.lengths, p.num_sequences, 0, kv_capacity(p.cache));
  if (p.rows != nullptr) {
    refuse_outside("rows", p.rows, p.num_sequences, 0, p.cache.num_rows - 1);
  }
  if (p.prefix.keys != nullptr) {
    refuse_outside("prefix.lengths", p.prefix_lengths, p.prefix.num_rows, 0, kv_capacity(p.prefix));
    refuse_outside("prefix.of", p.prefix_of, p.num_sequences, -1, p.prefix.num_rows - 1);
  }
  if (p.k_new.data == nullptr) return;
  std::vector<bool> taken(static_cast<size_t>(p.cache.num_rows));
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    const int64_t new_tokens = bound(p, s + 1) - bound(p, s);
    check(p.lengths[s] >= new_tokens,
          "decode_attention: lengths count the new tokens, but sequence ", s, " has ", new_tokens,
          " of them and length ", p.lengths[s]);
    auto row = taken[static_cast<size_t>(p.rows == nullptr ? s : p.rows[s])];
    check(!row, "decode_attention: rows must differ where tokens are appended");
    row = true;
  }
}

}  // namespace

void decode_attention(const DecodeAttentionParams& params, int num_threads) {
  refuse_bad_numbers(params);
  if (params.num_tokens == 0 || params.num_heads == 0) return;
  const Plan plan = make_plan(params);
  dispatch_float(params.dtype, "decode_attention", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Parts<T> parts(params.num_tokens * params.num_heads * plan.num_slots, params.width);
    attend(params, plan, parts, num_threads);
    merge(params, plan, parts, num_threads);
  });
}

}  // namespace fastregion::cpu
