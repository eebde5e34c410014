// Nearest resize of bit-packed masks, from bits to bits.
//
//   resized(i, j) = mask(i * height / new_height, j * width / new_width)      integer division
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
  RowResizer(int64_t width, int64_t new_width);

  // source [row_words(width)]   resized [row_words(new_width)], written completely
  void operator()(const uint64_t* source, uint64_t* resized) const;

 private:
  struct Widening {
    int64_t first;    // source pixel behind the first pixel of the word
    uint64_t starts;  // pixels of the word where another source pixel begins
  };

  int64_t width_, new_width_;
  std::vector<uint64_t> used_;       // narrowing, per word of the source: the pixels that are used
  std::vector<Widening> widenings_;  // widening, per word of the result
};

void resize_mask(const uint64_t* words, int64_t height, int64_t width, uint64_t* resized,
                 int64_t new_height, int64_t new_width, int num_threads);

}  // namespace fastregion
