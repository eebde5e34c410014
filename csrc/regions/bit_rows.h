// Binary masks as bit-packed rows.
//
//   words [height, row_words] uint64, row_words = ceil(width / 64)
//   pixel (y, x) is bit x % 64 of words[y][x / 64]; the bits past `width` are 0.
//
// Every function here keeps the padding at 0 and relies on it. The operators, whose words come from
// a caller, ignore it. Half-open boxes (x0, y0, x1, y1) in pixels.
#pragma once

#include <cstdint>

namespace fastregion {

inline constexpr int64_t kWordBits = 64;

constexpr int64_t row_words(int64_t width) { return (width + kWordBits - 1) / kWordBits; }

// Bits [begin, begin + count) of a row, 1 <= count <= 64.
constexpr uint64_t read_bits(const uint64_t* words, int64_t begin, int64_t count) {
  const int64_t word = begin / kWordBits;
  const int64_t shift = begin % kWordBits;
  uint64_t bits = words[word] >> shift;
  if (shift + count > kWordBits) bits |= words[word + 1] << (kWordBits - shift);
  return bits & ~uint64_t{0} >> (kWordBits - count);
}

// words[y][x] = mask[y][x] != 0.      mask [height, width] uint8   words [height, row_words]
void pack_bits(const uint8_t* mask, int64_t height, int64_t width, uint64_t* words);

// mask[y][x] = 0 or 1.                words [height, row_words]    mask [height, width] uint8
void unpack_bits(const uint64_t* words, int64_t height, int64_t width, uint8_t* mask);

// The same where `mask` is zeros: memory without pixels is neither written nor, if it is fresh from
// the system, ever mapped.
void unpack_onto_zeros(const uint64_t* words, int64_t height, int64_t width, uint8_t* mask);

struct PixelBox {
  int64_t x0 = 0, y0 = 0, x1 = 0, y1 = 0;
};

struct MaskExtent {
  int64_t area = 0;  // pixels set
  PixelBox box;      // the smallest box around them; all 0 for an empty mask
};

MaskExtent mask_extent(const uint64_t* words, int64_t height, int64_t width);

struct CoordinateSums {
  int64_t x = 0, y = 0;  // sums of the column and row indices of the pixels set
};

CoordinateSums coordinate_sums(const uint64_t* words, int64_t height, int64_t width);

// One mask of a pairwise comparison: its rows and the box around its pixels.
struct BoundedMask {
  const uint64_t* words;  // [height, row_words]
  PixelBox box;
};

// counts[i][j] = number of pixels set in both first[i] and second[j].
//
// first [num_first]  second [num_second]  counts [num_first, num_second] int64
// All masks share row_words. With `symmetric`, second must be first: each pair is counted once.
// Work: only the rows and words inside the intersection of the two boxes are read.
void count_intersections(const BoundedMask* first, int64_t num_first, const BoundedMask* second,
                         int64_t num_second, int64_t row_words, bool symmetric, int num_threads,
                         int64_t* counts);

}  // namespace fastregion
