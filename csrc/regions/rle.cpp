#include "regions/rle.h"

#include <algorithm>
#include <bit>
#include <cstddef>

#include "core/error.h"
#include "regions/bit_rows.h"
#include "regions/bit_rows_isa.h"

namespace fastregion {
namespace {

constexpr int kDigitBits = 5;
constexpr int kSignBit = 0x10;
constexpr int kMoreBit = 0x20;
constexpr int kFirstCharacter = 48;
// 2^40 pixels exceed any mask; the bound keeps sums of counts far from overflow.
constexpr int kMaxDigits = 8;
constexpr int64_t kMaxCount = int64_t{1} << (kDigitBits * kMaxDigits);

// ---- text <-> counts -------------------------------------------------------------------------

// Calls sink(count) for each count of a compressed string.
template <class Sink>
void parse_counts(std::string_view text, Sink&& sink) {
  const auto code_at = [&](size_t at) {
    const int code = static_cast<unsigned char>(text[at]) - kFirstCharacter;
    check(code >= 0 && code < 2 * kMoreBit,
          "rle: counts must be made of the characters 0 to o, got code ", code + kFirstCharacter,
          " at position ", at);
    return code;
  };
  int64_t two_before = 0;  // 0 until the fourth count
  int64_t one_before = 0;
  int64_t index = 0;
  for (size_t at = 0; at < text.size();) {
    int code = code_at(at++);
    int64_t value = code & 0x1f;
    int bits = kDigitBits;
    for (; (code & kMoreBit) != 0; bits += kDigitBits) {
      check(at < text.size(),
            "rle: counts must end with a whole number, got a string cut short after ", text.size(),
            " characters");
      code = code_at(at);
      check(bits < kDigitBits * kMaxDigits,
            "rle: counts must fit a mask, got a number of more than ", kMaxDigits,
            " digits at position ", at);
      value |= int64_t{code & 0x1f} << bits;
      ++at;
    }
    if ((code & kSignBit) != 0) value -= int64_t{1} << bits;
    value += two_before;
    check(value >= 0 && value < kMaxCount, "rle: counts must be at least 0 and fit a mask, got ",
          value, " before position ", at);
    sink(value);
    two_before = index < 2 ? 0 : one_before;
    one_before = value;
    ++index;
  }
}

// Appends counts to a compressed string.
class CountsWriter {
 public:
  void add(int64_t count) {
    if (text_.size() < size_ + kRoom) text_.resize(2 * text_.size() + kRoom);
    char* to = text_.data() + size_;
    int64_t value = count - two_before_;
    two_before_ = index_ < 2 ? 0 : one_before_;
    one_before_ = count;
    ++index_;
    bool more = true;
    while (more) {
      const int digit = static_cast<int>(value & 0x1f);
      value >>= kDigitBits;
      more = value != ((digit & kSignBit) != 0 ? -1 : 0);
      *to++ = static_cast<char>(digit + (more ? kMoreBit : 0) + kFirstCharacter);
    }
    size_ = static_cast<size_t>(to - text_.data());
  }

  std::string take() && {
    text_.resize(size_);
    return std::move(text_);
  }

 private:
  static constexpr size_t kRoom = 16;  // digits of any 64-bit count

  std::string text_;
  size_t size_ = 0;
  int64_t two_before_ = 0;  // 0 until the fourth count
  int64_t one_before_ = 0;
  int64_t index_ = 0;
};

// ---- bits -> counts --------------------------------------------------------------------------

// The row that stands above row 0 in column order: the last pixel of the column before, that is the
// last row moved one column to the right. Above the first column stands a 0.
std::vector<uint64_t> row_above_first(const uint64_t* words, int64_t height, int64_t width) {
  const int64_t num_words = row_words(width);
  const uint64_t* last_row = words + (height - 1) * num_words;
  std::vector<uint64_t> above(last_row, last_row + num_words);
  for (int64_t w = num_words - 1; w >= 0; --w) {
    const uint64_t carried = w == 0 ? 0 : last_row[w - 1] >> (kWordBits - 1);
    above[static_cast<size_t>(w)] = last_row[w] << 1 | carried;
  }
  // The move may have set a bit of the padding, which is no pixel.
  if (width % kWordBits != 0) above.back() &= (uint64_t{1} << (width % kWordBits)) - 1;
  return above;
}

// Calls sink(count) for each count of a mask.
//
// A run ends where a pixel differs from the one above. Rows are stored but columns are wanted, so
// the differences are transposed in blocks of 64 x 64 pixels. One pass over the rows first finds
// the blocks that have any: in a smooth mask they are few, and the rest costs nothing more.
template <class Sink>
void scan_counts(const uint64_t* words, int64_t height, int64_t width, Sink&& sink) {
  const int64_t num_pixels = height * width;
  if (num_pixels == 0) {
    sink(0);
    return;
  }
  const auto gather_changes = FASTREGION_SELECT_ISA(gather_changes);
  const auto transpose_block = FASTREGION_SELECT_ISA(transpose_block);
  const int64_t num_words = row_words(width);
  const int64_t num_blocks = row_words(height);
  const std::vector<uint64_t> above_first = row_above_first(words, height, width);
  const auto above = [&](int64_t y) {
    return y == 0 ? above_first.data() : words + (y - 1) * num_words;
  };

  // changed [num_blocks, num_words]: the columns of a block that have a difference.
  std::vector<uint64_t> changed(static_cast<size_t>(num_blocks * num_words));
  for (int64_t b = 0; b < num_blocks; ++b) {
    const int64_t y = b * kWordBits;
    gather_changes(words + y * num_words, above(y), std::min(kWordBits, height - y), num_words,
                   changed.data() + b * num_words);
  }

  struct Block {
    int64_t first_row;
    uint64_t ends[kWordBits];  // of column x of the strip: bit y is set where a run ends
  };
  std::vector<Block> strip(static_cast<size_t>(num_blocks));
  int64_t run_start = 0;
  for (int64_t w = 0; w < num_words; ++w) {
    uint64_t columns = 0;
    size_t used = 0;
    for (int64_t b = 0; b < num_blocks; ++b) {
      const uint64_t changed_columns = changed[static_cast<size_t>(b * num_words + w)];
      if (changed_columns == 0) continue;
      columns |= changed_columns;
      Block& block = strip[used++];
      block.first_row = b * kWordBits;
      const int64_t num_rows = std::min(kWordBits, height - block.first_row);
      uint64_t previous = above(block.first_row)[w];
      for (int64_t i = 0; i < num_rows; ++i) {
        const uint64_t row = words[(block.first_row + i) * num_words + w];
        block.ends[i] = row ^ previous;
        previous = row;
      }
      std::fill(block.ends + num_rows, block.ends + kWordBits, 0);
      transpose_block(block.ends);
    }
    for (; columns != 0; columns &= columns - 1) {
      const int column = std::countr_zero(columns);
      const int64_t column_start = (w * kWordBits + column) * height;
      for (size_t b = 0; b < used; ++b) {
        const int64_t start = column_start + strip[b].first_row;
        for (uint64_t ends = strip[b].ends[column]; ends != 0; ends &= ends - 1) {
          const int64_t position = start + std::countr_zero(ends);
          sink(position - run_start);
          run_start = position;
        }
      }
    }
  }
  sink(num_pixels - run_start);
}

// ---- counts -> bits --------------------------------------------------------------------------

// The pixels of a mask that no run has taken yet.
class PixelBudget {
 public:
  PixelBudget(int64_t height, int64_t width)
      : height_(height), width_(width), left_(height * width) {}

  void take(int64_t count) {
    check(count >= 0 && count <= left_, "rle: counts must not be negative and must sum to ",
          height_, " * ", width_, " = ", height_ * width_, ", got a run of ", count, " with ",
          left_, " pixels left");
    left_ -= count;
  }

  void finish() const {
    check(left_ == 0, "rle: counts must sum to ", height_, " * ", width_, " = ", height_ * width_,
          ", got ", height_ * width_ - left_);
  }

 private:
  const int64_t height_;
  const int64_t width_;
  int64_t left_;
};

// Toggles bits [begin, end) of a row.
void toggle_range(uint64_t* row, int64_t begin, int64_t end) {
  while (begin < end) {
    const int64_t bit = begin % kWordBits;
    const int64_t count = std::min(kWordBits - bit, end - begin);
    row[begin / kWordBits] ^= (~uint64_t{0} >> (kWordBits - count)) << bit;
    begin += count;
  }
}

// A pixel, moved along the columns.
struct Cursor {
  int64_t x = 0, y = 0;

  void advance(int64_t count, int64_t height) {
    y += count;
    if (y < height) return;
    y -= height;  // runs of a smooth mask rarely pass more than one column: spare the division
    ++x;
    if (y < height) return;
    x += y / height;
    y %= height;
  }
};

// Paints runs of 0 and 1, in turn, into zeroed rows. Only the ends of the runs are toggled at
// first; finish() makes pixel (y, x) the parity of the toggles at and above it in its column. That
// costs one toggle per end and one pass of XORs over the rows and words between the outermost
// toggles, whatever the lengths of the runs.
class RunPainter {
 public:
  RunPainter(int64_t height, int64_t width, uint64_t* words)
      : height_(height),
        width_(width),
        num_words_(row_words(width)),
        budget_(height, width),
        words_(words),
        first_row_(height),
        first_column_(width) {}

  void add(int64_t count) {
    budget_.take(count);
    if (count != 0) {
      if (inside_) {
        paint(count);
      } else {
        here_.advance(count, height_);
      }
    }
    inside_ = !inside_;
  }

  void finish() {
    budget_.finish();
    if (first_column_ == width_) return;
    const auto xor_row = FASTREGION_SELECT_ISA(xor_row);
    const int64_t first_word = first_column_ / kWordBits;
    const int64_t num_words = last_column_ / kWordBits + 1 - first_word;
    for (int64_t y = first_row_ + 1; y <= last_row_; ++y) {
      uint64_t* row = words_ + y * num_words_ + first_word;
      xor_row(row, row - num_words_, num_words);
    }
  }

 private:
  void paint(int64_t count) {
    first_column_ = std::min(first_column_, here_.x);
    first_row_ = std::min(first_row_, here_.y);
    toggle_here();
    const int64_t column = here_.x;
    here_.advance(count, height_);
    last_column_ = std::min(here_.x, width_ - 1);
    toggle_here();
    if (here_.x == column) {
      last_row_ = std::max(last_row_, here_.y);
    } else {  // the run goes on to the bottom, and enters the next columns from above
      toggle_range(words_, column + 1, std::min(here_.x + 1, width_));
      first_row_ = 0;
      last_row_ = height_ - 1;
    }
  }

  void toggle_here() {
    if (here_.x >= width_) return;  // the end of the last column
    words_[here_.y * num_words_ + here_.x / kWordBits] ^= uint64_t{1} << (here_.x % kWordBits);
  }

  const int64_t height_;
  const int64_t width_;
  const int64_t num_words_;
  PixelBudget budget_;
  uint64_t* const words_;
  int64_t first_row_, last_row_ = 0;  // of the toggles, and of the pixels below them
  int64_t first_column_, last_column_ = 0;
  Cursor here_;
  bool inside_ = false;
};

// ---- counts -> area and box ------------------------------------------------------------------

class ExtentMeter {
 public:
  ExtentMeter(int64_t height, int64_t width)
      : height_(height), budget_(height, width), y0_(height) {}

  void add(int64_t count) {
    budget_.take(count);
    const Cursor first = next_;
    if (count != 0) next_.advance(count, height_);
    if (inside_ && count != 0) {
      const bool at_top = next_.y == 0;  // then the run ends at the bottom of the column before
      const int64_t end_x = at_top ? next_.x : next_.x + 1;
      const int64_t end_y = at_top ? height_ : next_.y;
      if (area_ == 0) x0_ = first.x;
      x1_ = end_x;
      const bool one_column = first.x + 1 == end_x;  // else it has a bottom and a top pixel
      y0_ = std::min(y0_, one_column ? first.y : 0);
      y1_ = std::max(y1_, one_column ? end_y : height_);
      area_ += count;
    }
    inside_ = !inside_;
  }

  CountsExtent result() const {
    budget_.finish();
    if (area_ == 0) return {};
    return {area_, x0_, y0_, x1_ - x0_, y1_ - y0_};
  }

 private:
  const int64_t height_;
  PixelBudget budget_;
  int64_t area_ = 0;
  int64_t x0_ = 0, y0_, x1_ = 0, y1_ = 0;
  Cursor next_;  // first pixel of the next run
  bool inside_ = false;
};

}  // namespace

std::vector<int64_t> counts_from_string(std::string_view text) {
  std::vector<int64_t> counts;
  counts.reserve(text.size());
  parse_counts(text, [&](int64_t count) { counts.push_back(count); });
  return counts;
}

std::string string_from_counts(std::span<const int64_t> counts) {
  CountsWriter writer;
  for (const int64_t count : counts) writer.add(count);
  return std::move(writer).take();
}

std::vector<int64_t> counts_from_bits(const uint64_t* words, int64_t height, int64_t width) {
  std::vector<int64_t> counts;
  scan_counts(words, height, width, [&](int64_t count) { counts.push_back(count); });
  return counts;
}

std::string string_from_bits(const uint64_t* words, int64_t height, int64_t width) {
  CountsWriter writer;
  scan_counts(words, height, width, [&](int64_t count) { writer.add(count); });
  return std::move(writer).take();
}

void bits_from_counts(std::span<const int64_t> counts, int64_t height, int64_t width,
                      uint64_t* words) {
  RunPainter painter(height, width, words);
  for (const int64_t count : counts) painter.add(count);
  painter.finish();
}

void bits_from_string(std::string_view text, int64_t height, int64_t width, uint64_t* words) {
  RunPainter painter(height, width, words);
  parse_counts(text, [&](int64_t count) { painter.add(count); });
  painter.finish();
}

void bits_from_positions(std::span<const int64_t> positions, int64_t height, int64_t width,
                         uint64_t* words) {
  RunPainter painter(height, width, words);
  int64_t here = 0;
  for (const int64_t position : positions) {
    painter.add(position - here);
    here = position;
  }
  painter.add(height * width - here);
  painter.finish();
}

CountsExtent extent_of_counts(std::span<const int64_t> counts, int64_t height, int64_t width) {
  ExtentMeter meter(height, width);
  for (const int64_t count : counts) meter.add(count);
  return meter.result();
}

CountsExtent extent_of_string(std::string_view text, int64_t height, int64_t width) {
  ExtentMeter meter(height, width);
  parse_counts(text, [&](int64_t count) { meter.add(count); });
  return meter.result();
}

}  // namespace fastregion
