// Nearest resize of bit-packed masks, from bits to bits.
//
//   resized(i, j) = mask(source_rows[i], source_columns[j])
//   resize_mask: source_rows[i] = i * height / new_height, columns likewise     integer division
//
//   mask [height, row_words(width)]   resized [new_height, row_words(new_width)]   see bit_rows.h
#pragma once

#include <cstdint>
#include <vector>

namespace fastregion {

// Resizes rows of one width to rows of another, 64 pixels at a time whatever they show.
//
// Narrowing uses every source pixel at most once: a word of the source gives the bits under a mask,
// side by side, and they are appended to the result. Widening repeats pixels: bit k of the source
// pixels behind a word of the result covers the bits from start k to start k + 1, which, as a
// number, are 2^(start k + 1) - 2^(start k); so a word is the difference of the pixels laid out at
// the ends and at the starts.
class RowResizer {
 public:
  // source_columns [new_width] ascend: by at least one everywhere, or by at most one everywhere.
  RowResizer(int64_t width, const int64_t* source_columns, int64_t new_width);

  // Rows [begin, end) of a mask.
  //
  // mask [height, row_words(width)], bits past the width are not used
  // source_rows [end]   resized [end, row_words(new_width)], written completely from row begin on
  void operator()(const uint64_t* mask, const int64_t* source_rows, int64_t begin, int64_t end,
                  uint64_t* resized) const;

 private:
  struct Widening {
    int64_t first;    // source pixel behind the first pixel of the word
    uint64_t starts;  // pixels of the word where another source pixel begins
  };

  void resize_row(const uint64_t* source, uint64_t* resized) const;

  int64_t source_words_, new_width_;
  int64_t first_word_ = 0;           // narrowing: the first word of the source that is used
  std::vector<uint64_t> used_;       // narrowing, per word from there on: the pixels that are used
  std::vector<Widening> widenings_;  // widening, per word of the result
};

void resize_mask(const uint64_t* words, int64_t height, int64_t width, uint64_t* resized,
                 int64_t new_height, int64_t new_width, int num_threads);

}  // namespace fastregion
