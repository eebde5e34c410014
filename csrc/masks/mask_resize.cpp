// CPU side of mask_resize; the equations are in the header.
//
// Most of a mask is constant, so work goes where it is not: a source row without pixels costs the
// test of its words; of the others, only the result columns between the first and the last pixel
// are formed, and of those a window that is all inside or all outside is known beforehand. The
// second pass adds only these spans. Source rows are resized once, when the first result row needs
// them, into a ring of as many rows as a window has taps.
//
// Traffic: the words once, the result once; the ring stays in the cache. Work is split over result
// rows: threads share nothing but the source rows where their parts meet.
#include "masks/mask_resize.h"

#include <algorithm>
#include <bit>
#include <type_traits>
#include <vector>

#include "core/isa.h"
#include "core/parallel.h"
#include "regions/bit_rows.h"

#define FASTREGION_ISA_SOURCE "masks/mask_resize.inc"
#include "core/for_each_isa.h"

namespace fastregion::cpu {
namespace {

// Result rows for which a second thread pays.
constexpr int64_t kRowsPerThread = 64;

struct Span {
  int64_t begin = 0, end = 0;
};

// The first pass of a mask, row by row.
template <class Rule>
class ResizedRows {
 public:
  using Sum = typename Rule::Sum;
  using Value = typename Rule::Value;

  explicit ResizedRows(const MaskResizeParams& p)
      : p_(p),
        values_(static_cast<size_t>(p.rows.taps * p.out_width)),
        spans_(static_cast<size_t>(p.rows.taps)) {
    for (int64_t j = 0; j < p.out_width; ++j) {
      Sum sum = Rule::kStart;
      for (int64_t k = 0; k < count(j); ++k) sum += Rule::kFull * weight(j, k);
      full_.push_back(Rule::value(sum));
    }
  }

  // Makes rows [begin, end) of a mask available; begin and end ascend, apart by at most `taps`.
  void advance(const uint64_t* mask, int64_t begin, int64_t end) {
    for (next_ = std::max(next_, begin); next_ < end; ++next_) {
      const auto slot = static_cast<size_t>(next_ % p_.rows.taps);
      spans_[slot] = resize(mask + next_ * row_words(p_.width), values(next_));
    }
  }
  void restart() { next_ = 0; }

  // Columns of a row that may not be 0; only they are written.
  Span span(int64_t y) const { return spans_[static_cast<size_t>(y % p_.rows.taps)]; }
  const Value* row(int64_t y) const { return values_.data() + y % p_.rows.taps * p_.out_width; }

 private:
  int64_t first(int64_t j) const { return p_.columns.windows[2 * j]; }
  int64_t count(int64_t j) const { return p_.columns.windows[2 * j + 1]; }
  Sum weight(int64_t j, int64_t k) const {
    return static_cast<const Sum*>(p_.columns.weights)[j * p_.columns.taps + k];
  }
  Value* values(int64_t y) { return values_.data() + y % p_.rows.taps * p_.out_width; }

  Span resize(const uint64_t* words, Value* out) const {
    const int64_t num_words = row_words(p_.width);
    int64_t low = 0, high = num_words - 1;
    while (low < num_words && words[low] == 0) ++low;
    if (low == num_words) return {};
    while (words[high] == 0) --high;
    const int64_t first_pixel = low * kWordBits + std::countr_zero(words[low]);
    const int64_t last_pixel = high * kWordBits + kWordBits - 1 - std::countl_zero(words[high]);
    const Span span{first_column_past(first_pixel), first_column_from(last_pixel + 1)};
    for (int64_t j = span.begin; j < span.end; ++j) out[j] = resize_pixel(words, j);
    return span;
  }

  // The first result column whose window ends after pixel x.
  int64_t first_column_past(int64_t x) const {
    int64_t low = 0, high = p_.out_width;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      (first(middle) + count(middle) > x ? high : low) =
          first(middle) + count(middle) > x ? middle : middle + 1;
    }
    return low;
  }

  // The first result column whose window begins at pixel x or later.
  int64_t first_column_from(int64_t x) const {
    int64_t low = 0, high = p_.out_width;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      (first(middle) >= x ? high : low) = first(middle) >= x ? middle : middle + 1;
    }
    return low;
  }

  Value resize_pixel(const uint64_t* words, int64_t j) const {
    Sum sum = Rule::kStart;
    bool full = true;
    for (int64_t k = 0; k < count(j); k += kWordBits) {
      const int64_t length = std::min(count(j) - k, kWordBits);
      uint64_t bits = read_bits(words, first(j) + k, length);
      const uint64_t all = ~uint64_t{0} >> (kWordBits - length);
      if (full && bits == all && length == count(j)) return full_[static_cast<size_t>(j)];
      full = false;
      if (bits != 0) {
        const Sum* weights = static_cast<const Sum*>(p_.columns.weights) + j * p_.columns.taps + k;
        sum = FASTREGION_SELECT_ISA(sum_bits<Rule>)(weights, bits, length, sum);
      }
    }
    return Rule::value(sum);
  }

  const MaskResizeParams& p_;
  std::vector<Value> values_;  // [taps of the rows, out_width]
  std::vector<Span> spans_;    // [taps of the rows]
  std::vector<Value> full_;    // [out_width]: of a window that is all inside
  int64_t next_ = 0;           // the first row not yet resized
};

template <class Rule>
void resize(const MaskResizeParams& p, int64_t begin, int64_t end) {
  using Sum = typename Rule::Sum;
  const Sum* weights = static_cast<const Sum*>(p.rows.weights);
  ResizedRows<Rule> rows(p);
  std::vector<Sum> sums(static_cast<size_t>(p.out_width));
  for (int64_t row = begin; row < end; ++row) {
    const int64_t i = row % p.out_height;
    if (i == 0) rows.restart();
    const int64_t first = p.rows.windows[2 * i];
    const int64_t count = p.rows.windows[2 * i + 1];
    const uint64_t* mask = p.masks + row / p.out_height * p.height * row_words(p.width);
    rows.advance(mask, first, first + count);
    Span span{p.out_width, 0};
    for (int64_t k = 0; k < count; ++k) {
      const auto [from, to] = rows.span(first + k);
      if (from >= to) continue;
      span = {std::min(span.begin, from), std::max(span.end, to)};
    }
    uint8_t* out = p.out + row * p.out_width;
    std::fill_n(out, p.out_width, Rule::grey(Rule::kStart));
    if (span.begin >= span.end) continue;
    std::fill(sums.begin() + span.begin, sums.begin() + span.end, Rule::kStart);
    for (int64_t k = 0; k < count; ++k) {
      const auto [from, to] = rows.span(first + k);
      FASTREGION_SELECT_ISA(add_row<Rule>)(sums.data() + from, rows.row(first + k) + from,
                                           weights[i * p.rows.taps + k], to - from);
    }
    for (int64_t j = span.begin; j < span.end; ++j) {
      out[j] = Rule::grey(sums[static_cast<size_t>(j)]);
    }
  }
}

}  // namespace

void mask_resize(const MaskResizeParams& p, int num_threads) {
  parallel_for(p.num_masks * p.out_height, kRowsPerThread, num_threads,
               [&](int64_t begin, int64_t end) {
                 p.fixed_point ? resize<FixedPoint>(p, begin, end) : resize<Wrapped>(p, begin, end);
               });
}

}  // namespace fastregion::cpu
