// The erosion is separable, and a window of any size is a few windows of half the size: with
//   all(x, n)  = pixel(x) & ... & pixel(x + n - 1)
//   all(x, 2n) = all(x, n) & all(x + n, n)
// a window of n pixels takes about log2(n) steps along the rows and as many down the columns, each
// on 64 pixels at a time. Windows are kept at their first pixel; the result is moved back by the
// radius at the end. Only the words around the mask's box are looked at.
#include "regions/boundary.h"

#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "regions/bit_rows.h"

namespace fastregion {
namespace {

// Rows of the mask for which a second thread pays, beside the rows that it shares with others.
constexpr int64_t kRowsPerThread = 256;

// Calls step(size, shift) for windows of 1, 2, 4, ... pixels that grow by `shift`, up to `size`.
template <class Step>
void grow_window(int64_t size, Step&& step) {
  for (int64_t covered = 1; covered < size;) {
    const int64_t shift = std::min(covered, size - covered);
    covered += shift;
    step(covered, shift);
  }
}

// row[x] &= row[x + shift], 0 past the end of the row.
void and_pixels_ahead(uint64_t* row, int64_t num_words, int64_t shift) {
  const int64_t words = shift / kWordBits;
  const int64_t bits = shift % kWordBits;
  const int64_t whole = std::max<int64_t>(num_words - words - 1, 0);  // with two words to read
  if (bits == 0) {
    for (int64_t w = 0; w < whole; ++w) row[w] &= row[w + words];
  } else {
    for (int64_t w = 0; w < whole; ++w) {
      row[w] &= row[w + words] >> bits | row[w + words + 1] << (kWordBits - bits);
    }
  }
  int64_t done = whole;
  if (words < num_words) row[done++] &= row[num_words - 1] >> bits;
  std::fill(row + done, row + num_words, uint64_t{0});
}

// row[x] &= not eroded[x - shift].
void subtract_pixels_behind(const uint64_t* eroded, int64_t num_words, int64_t shift,
                            uint64_t* row) {
  const int64_t words = shift / kWordBits;
  const int64_t bits = shift % kWordBits;
  for (int64_t w = words; w < num_words; ++w) {
    uint64_t behind = eroded[w - words] << bits;
    if (bits != 0 && w > words) behind |= eroded[w - words - 1] >> (kWordBits - bits);
    row[w] &= ~behind;
  }
}

}  // namespace

void mask_boundary(const uint64_t* words, int64_t height, int64_t width, int64_t radius,
                   uint64_t* boundary, int num_threads) {
  const PixelBox box = mask_extent(words, height, width).box;
  const int64_t stride = row_words(width);
  const int64_t first_word = box.x0 / kWordBits;
  const int64_t num_words = row_words(box.x1) - first_word;
  // A window that is larger than the box erodes all of it, however much larger it is.
  radius = std::min(radius, std::max(box.x1 - box.x0, box.y1 - box.y0));
  const int64_t window = 2 * radius + 1;

  parallel_for(box.y1 - box.y0, kRowsPerThread, num_threads, [&](int64_t begin, int64_t end) {
    const int64_t y_begin = box.y0 + begin;
    const int64_t y_end = box.y0 + end;
    for (int64_t y = y_begin; y < y_end; ++y) {
      std::copy_n(words + y * stride + first_word, num_words, boundary + y * stride + first_word);
    }
    // The rows that may keep pixels have `radius` rows of the box above and below.
    const int64_t kept_begin = std::max(y_begin, box.y0 + radius);
    const int64_t kept_end = std::min(y_end, box.y1 - radius);
    if (kept_begin >= kept_end) return;

    // windows [num_rows, num_words], row k from row kept_begin - radius + k of the mask.
    const int64_t num_rows = kept_end - kept_begin + 2 * radius;
    std::vector<uint64_t> windows(static_cast<size_t>(num_rows * num_words));
    for (int64_t k = 0; k < num_rows; ++k) {
      uint64_t* row = windows.data() + k * num_words;
      std::copy_n(words + (kept_begin - radius + k) * stride + first_word, num_words, row);
      grow_window(window, [&](int64_t, int64_t shift) { and_pixels_ahead(row, num_words, shift); });
    }
    grow_window(window, [&](int64_t covered, int64_t shift) {
      const uint64_t* ahead = windows.data() + shift * num_words;
      const int64_t count = (num_rows - covered + 1) * num_words;
      for (int64_t i = 0; i < count; ++i) windows[static_cast<size_t>(i)] &= ahead[i];
    });
    for (int64_t y = kept_begin; y < kept_end; ++y) {
      subtract_pixels_behind(windows.data() + (y - kept_begin) * num_words, num_words, radius,
                             boundary + y * stride + first_word);
    }
  });
}

}  // namespace fastregion
