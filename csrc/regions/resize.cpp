#include "regions/resize.h"

#include <algorithm>
#include <bit>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/error.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "regions/bit_rows.h"

#define FASTREGION_ISA_SOURCE "regions/resize.inc"
#include "core/for_each_isa.h"

namespace fastregion {
namespace {

// Rows of the result for which a second thread pays.
constexpr int64_t kRowsPerThread = 512;

// i * size / new_size for 0 <= i < new_size, without a division per pixel.
std::vector<int64_t> nearest_table(int64_t size, int64_t new_size) {
  std::vector<int64_t> table;
  table.reserve(static_cast<size_t>(new_size));
  int64_t source = 0;
  int64_t remainder = 0;
  for (int64_t i = 0; i < new_size; ++i) {
    table.push_back(source);
    source += size / new_size;
    remainder += size % new_size;
    if (remainder >= new_size) {
      remainder -= new_size;
      ++source;
    }
  }
  return table;
}

}  // namespace

RowResizer::RowResizer(int64_t width, const int64_t* source_columns, int64_t new_width)
    : source_words_(row_words(width)), new_width_(new_width) {
  bool repeats = false, skips = false;
  for (int64_t j = 1; j < new_width; ++j) {
    repeats |= source_columns[j] == source_columns[j - 1];
    skips |= source_columns[j] > source_columns[j - 1] + 1;
  }
  check(!repeats || !skips, "resize: columns must not be repeated here and skipped there");
  if (repeats) {
    for (int64_t j = 0; j < new_width; ++j) {
      const int64_t place = j % kWordBits;
      if (place == 0) {
        widenings_.push_back({source_columns[j], 1});
      } else if (source_columns[j] != source_columns[j - 1]) {
        widenings_.back().starts |= uint64_t{1} << place;
      }
    }
    return;
  }
  first_word_ = source_columns[0] / kWordBits;
  used_.resize(static_cast<size_t>(source_columns[new_width - 1] / kWordBits - first_word_ + 1));
  for (int64_t j = 0; j < new_width; ++j) {
    const auto word = static_cast<size_t>(source_columns[j] / kWordBits - first_word_);
    used_[word] |= uint64_t{1} << (source_columns[j] % kWordBits);
  }
}

void RowResizer::resize_row(const uint64_t* source, uint64_t* resized) const {
  if (!used_.empty()) {
    FASTREGION_SELECT_ISA(narrow_row)
    (source + first_word_, used_.data(), std::ssize(used_), resized);
    return;
  }
  const int64_t num_words = std::ssize(widenings_);
  FASTREGION_SELECT_ISA(widen_row<Widening>)
  (source, source_words_, widenings_.data(), num_words, resized);
  // The last source pixel ends where the row does, not where the word does.
  if (new_width_ % kWordBits != 0) {
    resized[num_words - 1] &= (uint64_t{1} << (new_width_ % kWordBits)) - 1;
  }
}

void RowResizer::operator()(const uint64_t* mask, const int64_t* source_rows, int64_t begin,
                            int64_t end, uint64_t* resized) const {
  const int64_t num_words = row_words(new_width_);
  for (int64_t i = begin; i < end; ++i) {
    uint64_t* row = resized + i * num_words;
    if (i > begin && source_rows[i] == source_rows[i - 1]) {
      std::copy_n(row - num_words, num_words, row);
    } else {
      resize_row(mask + source_rows[i] * source_words_, row);
    }
  }
}

void resize_mask(const uint64_t* words, int64_t height, int64_t width, uint64_t* resized,
                 int64_t new_height, int64_t new_width, int num_threads) {
  const std::vector<int64_t> source_rows = nearest_table(height, new_height);
  const std::vector<int64_t> source_columns = nearest_table(width, new_width);
  const RowResizer resize(width, source_columns.data(), new_width);
  parallel_for(new_height, kRowsPerThread, num_threads, [&](int64_t begin, int64_t end) {
    resize(words, source_rows.data(), begin, end, resized);
  });
}

}  // namespace fastregion
