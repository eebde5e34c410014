// CPU side of mask_patch_embed; the equation is in the header, the trick in patch_terms.h.
//
// The table of kernel rows [2 * k * k, C] is made once per call: for k = 14 and C = 1024 it is
// 1.6 MB, read from the cache afterwards. Traffic otherwise: add_to read, out written.
// Work is split over patches (gradient: over channels): no two threads write the same place, and
// the order of every sum is fixed.
#include "masks/mask_patch_embed.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "core/parallel.h"
#include "core/rows.h"
#include "masks/patch_terms.h"
#include "regions/bit_rows.h"

namespace fastregion::cpu {
namespace {

// Channels transposed at a time: one cache line of floats per table row.
constexpr int64_t kTransposeBlock = 16;
// The gradient is split into channels by multiples of this.
constexpr int64_t kChannelBlock = 64;
// Below this many written elements a second thread costs more than it brings.
constexpr int64_t kElementsPerThread = 32 * 1024;

constexpr int64_t ceil_div(int64_t count, int64_t size) { return (count + size - 1) / size; }

int64_t patch_rows(const MaskPatchEmbedParams& p) {
  return p.num_tiles * (p.height / p.kernel_size);
}

int64_t patch_columns(const MaskPatchEmbedParams& p) { return p.width / p.kernel_size; }

// Bits [begin, begin + count) of a row of words, count <= 64.
uint64_t read_bits(const uint64_t* words, int64_t begin, int64_t count) {
  const int64_t word = begin / kWordBits;
  const int shift = static_cast<int>(begin % kWordBits);
  uint64_t bits = words[word] >> shift;
  if (shift + count > kWordBits) bits |= words[word + 1] << (kWordBits - shift);
  return bits & (~uint64_t{0} >> (kWordBits - count));
}

// Calls body(patch, terms) for all patches of patch rows [begin, end), counted through all tiles.
template <class Acc, class Body>
void for_each_patch(const MaskPatchEmbedParams& p, int64_t begin, int64_t end, Body&& body) {
  const int64_t k = p.kernel_size;
  const int64_t rows_per_tile = p.height / k;
  const int64_t columns = patch_columns(p);
  const int64_t words_per_row = row_words(p.width);
  uint64_t pixels[kWordBits];
  PatchTerms<Acc> terms;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t y = row / rows_per_tile * p.height + row % rows_per_tile * k;
    const uint64_t* words = p.words + y * words_per_row;
    for (int64_t column = 0; column < columns; ++column) {
      for (int64_t i = 0; i < k; ++i) {
        pixels[i] = read_bits(words + i * words_per_row, column * k, k);
      }
      terms.set(pixels, k);
      body(row * columns + column, terms);
    }
  }
}

// Table rows [2 * k * k, C] of channels [begin, end): pixels, then corners (patch_terms.h).
template <class T, class Acc>
void make_table(const MaskPatchEmbedParams& p, const T* weight, Acc* table, int64_t begin,
                int64_t end) {
  const int64_t k = p.kernel_size;
  const int64_t pixels = k * k;
  for (int64_t c = begin; c < end; ++c) {
    const T* kernel = weight + c * p.input_channels * pixels;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      Acc sum = 0;
      for (int64_t ch = 0; ch < p.input_channels; ++ch)
        sum += to_float(kernel[ch * pixels + pixel]);
      table[pixel * p.channels + c] = sum;
    }
  }
  for (int64_t y = k - 1; y >= 0; --y) {
    for (int64_t x = k - 1; x >= 0; --x) {
      Acc* corner = table + (pixels + y * k + x) * p.channels;
      const Acc* pixel = table + (y * k + x) * p.channels;
      const Acc* right = corner + p.channels;  // row sums from the right, until the rows are added
      for (int64_t c = begin; c < end; ++c) corner[c] = pixel[c] + (x + 1 < k ? right[c] : Acc{0});
    }
  }
  for (int64_t y = k - 2; y >= 0; --y) {
    for (int64_t x = 0; x < k; ++x) {
      Acc* corner = table + (pixels + y * k + x) * p.channels;
      const Acc* below = corner + k * p.channels;
      for (int64_t c = begin; c < end; ++c) corner[c] += below[c];
    }
  }
}

template <class T>
void forward(const MaskPatchEmbedParams& p, const T* weight, const T* bias, const T* add_to, T* out,
             int num_threads) {
  using Acc = accumulate_t<T>;
  const int64_t table_rows = 2 * p.kernel_size * p.kernel_size;
  const auto table =
      std::make_unique_for_overwrite<Acc[]>(static_cast<size_t>((table_rows + 1) * p.channels));
  Acc* bias_row = table.get() + table_rows * p.channels;
  const int64_t blocks = ceil_div(p.channels, kTransposeBlock);
  const int64_t block_elements = table_rows * kTransposeBlock;
  parallel_for(blocks, kElementsPerThread / block_elements + 1, num_threads,
               [&](int64_t begin, int64_t end) {
                 for (int64_t block = begin; block < end; ++block) {
                   const int64_t c = block * kTransposeBlock;
                   make_table(p, weight, table.get(), c, std::min(c + kTransposeBlock, p.channels));
                 }
               });
  if (bias != nullptr)
    std::transform(bias, bias + p.channels, bias_row, [](T v) { return to_float(v); });

  const int64_t row_elements = patch_columns(p) * p.channels;
  parallel_for(patch_rows(p), kElementsPerThread / (row_elements + 1) + 1, num_threads,
               [&](int64_t begin, int64_t end) {
                 std::vector<const Acc*> rows;
                 std::vector<Acc> weights;
                 for_each_patch<Acc>(
                     p, begin, end, [&](int64_t patch, const PatchTerms<Acc>& terms) {
                       rows.clear();
                       for (const int64_t row : terms.rows)
                         rows.push_back(table.get() + row * p.channels);
                       weights = terms.weights;
                       if (bias != nullptr) {
                         rows.push_back(bias_row);
                         weights.push_back(1);
                       }
                       const int64_t offset = patch * p.channels;
                       weighted_sum(out + offset, add_to == nullptr ? nullptr : add_to + offset,
                                    rows.data(), weights.data(), std::ssize(rows), p.channels);
                     });
               });
}

template <class Acc>
void add_row(Acc* to, const Acc* from, int64_t length) {
  for (int64_t c = 0; c < length; ++c) to[c] += from[c];
}

// Sums the gradient into the table rows, then takes the table apart: pixel (i, j) of the kernel
// stands in its own row and in all corner rows above it and to its left.
template <class T>
void backward_channels(const MaskPatchEmbedParams& p, const T* grad, T* grad_weight, int64_t begin,
                       int64_t end) {
  using Acc = accumulate_t<T>;
  const int64_t k = p.kernel_size;
  const int64_t kernel_pixels = k * k;
  const int64_t length = end - begin;
  std::vector<Acc> table(static_cast<size_t>(2 * kernel_pixels * length));
  for_each_patch<Acc>(p, 0, patch_rows(p), [&](int64_t patch, const PatchTerms<Acc>& terms) {
    const T* from = grad + patch * p.channels + begin;
    for (size_t term = 0; term < terms.rows.size(); ++term) {
      Acc* to = table.data() + terms.rows[term] * length;
      weighted_sum(to, to, &from, &terms.weights[term], 1, length);
    }
  });
  Acc* corners = table.data() + kernel_pixels * length;
  for (int64_t i = 0; i < k; ++i) {
    Acc* row = corners + i * k * length;
    for (int64_t j = 1; j < k; ++j) add_row(row + j * length, row + (j - 1) * length, length);
    if (i > 0) add_row(row, row - k * length, k * length);
  }
  add_row(table.data(), corners, kernel_pixels * length);
  for (int64_t c = 0; c < length; ++c) {
    T* kernel = grad_weight + (begin + c) * p.input_channels * kernel_pixels;
    for (int64_t pixel = 0; pixel < kernel_pixels; ++pixel) {
      const Acc sum = table[static_cast<size_t>(pixel * length + c)];
      kernel[pixel] = from_float<T>(sum);
    }
    for (int64_t ch = 1; ch < p.input_channels; ++ch) {
      std::copy_n(kernel, kernel_pixels, kernel + ch * kernel_pixels);
    }
  }
}

}  // namespace

void mask_patch_embed(const MaskPatchEmbedParams& params, const void* weight, const void* bias,
                      const void* add_to, void* out, int num_threads) {
  if (params.channels == 0) return;
  dispatch_float(params.dtype, "mask_patch_embed", [&](auto tag) {
    using T = typename decltype(tag)::type;
    forward(params, static_cast<const T*>(weight), static_cast<const T*>(bias),
            static_cast<const T*>(add_to), static_cast<T*>(out), num_threads);
  });
}

void mask_patch_embed_backward(const MaskPatchEmbedParams& params, const void* grad,
                               void* grad_weight, int num_threads) {
  dispatch_float(params.dtype, "mask_patch_embed_backward", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t block_elements = patch_rows(params) * patch_columns(params) * kChannelBlock;
    parallel_for(
        ceil_div(params.channels, kChannelBlock), kElementsPerThread / (block_elements + 1) + 1,
        num_threads, [&](int64_t begin, int64_t end) {
          backward_channels(params, static_cast<const T*>(grad), static_cast<T*>(grad_weight),
                            begin * kChannelBlock, std::min(end * kChannelBlock, params.channels));
        });
  });
}

}  // namespace fastregion::cpu
