// Run-length encoding of masks as COCO writes it.
//
// Pixels are taken column by column (position = x * height + y). `counts` alternates the lengths of
// runs of 0 and of 1, starting with 0; the first may be 0, and the counts sum to height * width.
//
// The compressed form writes each count as a signed number in base 32, low digits first, one
// character (digit + 48) each: bit 5 says that more digits follow, bit 4 of the last digit is the
// sign. From the fourth count on, the difference to the count two places before is written instead.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fastregion {

// The functions without height and width judge what they can see: characters that are no digits, a
// number cut short, a count that is negative or beyond any mask. The sum is judged where the size
// is known. All throw std::invalid_argument.

std::vector<int64_t> counts_from_string(std::string_view text);
std::string string_from_counts(std::span<const int64_t> counts);

// words [height, row_words(width)], see bit_rows.h; to be filled, it must come zeroed.
std::vector<int64_t> counts_from_bits(const uint64_t* words, int64_t height, int64_t width);
std::string string_from_bits(const uint64_t* words, int64_t height, int64_t width);
void bits_from_counts(std::span<const int64_t> counts, int64_t height, int64_t width,
                      uint64_t* words);
void bits_from_string(std::string_view text, int64_t height, int64_t width, uint64_t* words);

// Fills the pixels between positions[0] and positions[1], positions[2] and positions[3], ...
// positions: ascending, even in number, each in [0, height * width].
void bits_from_positions(std::span<const int64_t> positions, int64_t height, int64_t width,
                         uint64_t* words);

// The number of pixels, and the box around the runs as (x, y, width, height).
struct CountsExtent {
  int64_t area = 0;
  int64_t x = 0, y = 0, width = 0, height = 0;
};

CountsExtent extent_of_counts(std::span<const int64_t> counts, int64_t height, int64_t width);
CountsExtent extent_of_string(std::string_view text, int64_t height, int64_t width);

}  // namespace fastregion
