#include "regions/bit_rows.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/parallel.h"
#include "regions/bit_rows_isa.h"

#define FASTREGION_ISA_SOURCE "regions/bit_rows.inc"
#include "core/for_each_isa.h"

namespace fastregion {
namespace {

static_assert(std::endian::native == std::endian::little, "words are packed from bytes in order");

// Pairs worth a thread of their own: a pair costs about a microsecond.
constexpr int64_t kPairsPerThread = 256;

PixelBox intersect(const PixelBox& a, const PixelBox& b) {
  return {std::max(a.x0, b.x0), std::max(a.y0, b.y0), std::min(a.x1, b.x1), std::min(a.y1, b.y1)};
}

}  // namespace

void pack_bits(const uint8_t* mask, int64_t height, int64_t width, uint64_t* words) {
  FASTREGION_SELECT_ISA(pack_bits)(mask, height, width, words);
}

void unpack_bits(const uint64_t* words, int64_t height, int64_t width, uint8_t* mask) {
  FASTREGION_SELECT_ISA(unpack_bits)(words, height, width, mask);
}

void unpack_onto_zeros(const uint64_t* words, int64_t height, int64_t width, uint8_t* mask) {
  FASTREGION_SELECT_ISA(unpack_onto_zeros)(words, height, width, mask);
}

MaskExtent mask_extent(const uint64_t* words, int64_t height, int64_t width) {
  const auto any_bit = FASTREGION_SELECT_ISA(any_bit);
  const int64_t num_words = row_words(width);
  int64_t first = 0;
  while (first < height && !any_bit(words + first * num_words, num_words)) ++first;
  if (first == height) return {};
  int64_t end = height;
  while (!any_bit(words + (end - 1) * num_words, num_words)) --end;

  MaskExtent extent;
  std::vector<uint64_t> columns(static_cast<size_t>(num_words));  // bit x: column x has a pixel
  extent.area = FASTREGION_SELECT_ISA(count_rows)(words + first * num_words, end - first, num_words,
                                                  columns.data());
  const auto is_set = [](uint64_t word) { return word != 0; };
  const auto left = std::find_if(columns.begin(), columns.end(), is_set);
  const auto right = std::find_if(columns.rbegin(), columns.rend(), is_set);
  extent.box.x0 = (left - columns.begin()) * kWordBits + std::countr_zero(*left);
  extent.box.x1 = (columns.rend() - right) * kWordBits - std::countl_zero(*right);
  extent.box.y0 = first;
  extent.box.y1 = end;
  return extent;
}

CoordinateSums coordinate_sums(const uint64_t* words, int64_t height, int64_t width) {
  // The sum of the positions of the bits of a word, one binary digit of the position at a time:
  // digit k contributes 2^k for each bit whose position has that digit.
  constexpr uint64_t kHasDigit[6] = {0xaaaaaaaaaaaaaaaaull, 0xccccccccccccccccull,
                                     0xf0f0f0f0f0f0f0f0ull, 0xff00ff00ff00ff00ull,
                                     0xffff0000ffff0000ull, 0xffffffff00000000ull};
  const int64_t num_words = row_words(width);
  CoordinateSums sums;
  for (int64_t y = 0; y < height; ++y) {
    int64_t in_row = 0;
    for (int64_t w = 0; w < num_words; ++w) {
      const uint64_t word = words[y * num_words + w];
      if (word == 0) continue;
      const int64_t count = std::popcount(word);
      in_row += count;
      sums.x += count * w * kWordBits;
      for (int digit = 0; digit < 6; ++digit) {
        sums.x += int64_t{std::popcount(word & kHasDigit[digit])} << digit;
      }
    }
    sums.y += in_row * y;
  }
  return sums;
}

void count_intersections(const BoundedMask* first, int64_t num_first, const BoundedMask* second,
                         int64_t num_second, int64_t row_words, bool symmetric, int num_threads,
                         int64_t* counts) {
  const auto count_common = FASTREGION_SELECT_ISA(count_common);
  const auto count_pair = [&](const BoundedMask& a, const BoundedMask& b) {
    const PixelBox box = intersect(a.box, b.box);
    if (box.x0 >= box.x1 || box.y0 >= box.y1) return int64_t{0};
    const int64_t first_word = box.x0 / kWordBits;
    const int64_t last_word = (box.x1 - 1) / kWordBits;
    const int64_t offset = box.y0 * row_words + first_word;
    return count_common(a.words + offset, b.words + offset, box.y1 - box.y0,
                        last_word - first_word + 1, row_words);
  };
  const int64_t rows_per_thread =
      std::max<int64_t>(kPairsPerThread / std::max<int64_t>(num_second, 1), 1);
  parallel_for(num_first, rows_per_thread, num_threads, [&](int64_t begin, int64_t end) {
    for (int64_t step = begin; step < end; ++step) {
      // Row i of the upper triangle has num_first - i pairs: long and short rows take turns, so
      // that equal ranges are equal work.
      const int64_t i = !symmetric ? step : step % 2 == 0 ? step / 2 : num_first - 1 - step / 2;
      for (int64_t j = symmetric ? i : 0; j < num_second; ++j) {
        const int64_t count = count_pair(first[i], second[j]);
        counts[i * num_second + j] = count;
        if (symmetric) counts[j * num_second + i] = count;
      }
    }
  });
}

}  // namespace fastregion
