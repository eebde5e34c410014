#include "regions/resize.h"

#include <algorithm>
#include <bit>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/isa.h"
#include "core/parallel.h"
#include "regions/bit_rows.h"

#define FASTREGION_ISA_SOURCE "regions/resize.inc"
#include "core/for_each_isa.h"

namespace fastregion {
namespace {

// Rows of the result for which a second thread pays.
constexpr int64_t kRowsPerThread = 512;

}  // namespace

RowResizer::RowResizer(int64_t width, int64_t new_width) : width_(width), new_width_(new_width) {
  const bool narrows = new_width <= width;
  if (narrows) used_.resize(static_cast<size_t>(row_words(width)));
  // x = j * width / new_width, without a division per pixel.
  int64_t x = 0;
  int64_t remainder = 0;
  int64_t previous = -1;
  for (int64_t j = 0; j < new_width; ++j) {
    const int64_t place = j % kWordBits;
    if (narrows) {
      used_[static_cast<size_t>(x / kWordBits)] |= uint64_t{1} << (x % kWordBits);
    } else if (place == 0) {
      widenings_.push_back({x, 1});
    } else if (x != previous) {
      widenings_.back().starts |= uint64_t{1} << place;
    }
    previous = x;
    x += width / new_width;
    remainder += width % new_width;
    if (remainder >= new_width) {
      remainder -= new_width;
      ++x;
    }
  }
}

void RowResizer::operator()(const uint64_t* source, uint64_t* resized) const {
  if (!used_.empty()) {
    FASTREGION_SELECT_ISA(narrow_row)(source, used_.data(), row_words(width_), resized);
    return;
  }
  const int64_t num_words = row_words(new_width_);
  FASTREGION_SELECT_ISA(widen_row<Widening>)
  (source, row_words(width_), widenings_.data(), num_words, resized);
  // The last source pixel ends where the row does, not where the word does.
  if (new_width_ % kWordBits != 0) {
    resized[num_words - 1] &= (uint64_t{1} << (new_width_ % kWordBits)) - 1;
  }
}

void resize_mask(const uint64_t* words, int64_t height, int64_t width, uint64_t* resized,
                 int64_t new_height, int64_t new_width, int num_threads) {
  const RowResizer resize_row(width, new_width);
  const int64_t num_words = row_words(new_width);
  parallel_for(new_height, kRowsPerThread, num_threads, [&](int64_t begin, int64_t end) {
    int64_t before = -1;  // source row of the row before
    for (int64_t i = begin; i < end; ++i) {
      const int64_t y = i * height / new_height;
      uint64_t* row = resized + i * num_words;
      if (y == before) {
        std::copy_n(row - num_words, num_words, row);
      } else {
        resize_row(words + y * row_words(width), row);
      }
      before = y;
    }
  });
}

}  // namespace fastregion
