// CPU side of mask_patch_embed; the equation is in the header, the trick in patch_terms.h.
//
// Patches are sorted into four kinds. Empty: the background, or nothing at all. Full: one row of
// the table. On an outline: a few rows of the table, at once. Noise, for which the rows would be
// many: gathered and multiplied as a matrix, a batch at a time.
// Traffic: the tiles once, add_to read, out written; the table (k = 14, C = 1024: 1.6 MB) comes
// from the cache. Work is split over rows of patches: no two threads write the same place, and the
// order of every sum is fixed.
#include "masks/mask_patch_embed.h"

#include <algorithm>
#include <vector>

#include "core/huge_pages.h"
#include "core/parallel.h"
#include "core/rows.h"
#include "core/sizes.h"
#include "masks/panel_product.h"
#include "masks/patch_terms.h"
#include "masks/patch_tiles.h"

namespace fastregion::cpu {
namespace {

// Channels transposed at a time: one cache line of floats per table row.
constexpr int64_t kTransposeBlock = 16;
// Below this many written elements a second thread costs more than it brings.
constexpr int64_t kElementsPerThread = 32 * 1024;
// Patches multiplied together: a multiple of kPanelRows, so many that packing the kernel for them
// is little beside the product, so few that panels and sums stay in the L2 cache.
constexpr int64_t kBatch = 16 * kPanelRows;
// A term reads a row of the table from the cache; a pixel of the product is a multiply-add in
// registers, about a third of that (measured). This many pixels cost as much as one term.
constexpr int64_t kPixelsPerTerm = 3;

int64_t patch_rows(const MaskPatches& p) { return p.num_tiles * patches_down(p); }

bool is_noise(const PatchChoice& choice, int64_t k) {
  return choice.num_terms * kPixelsPerTerm > k * k;
}

// Table rows of kTransposeBlock channels from c on: pixels, then corners (patch_terms.h), made in
// `block` [2 * k * k, kTransposeBlock] and copied out: rows of the table may be whole pages apart,
// too far to go back and forth between them.
template <class T, class Acc>
void make_table(const MaskPatchWeight& p, const T* weight, int64_t c, Acc* block, Acc* table) {
  const int64_t k = p.kernel_size;
  const int64_t pixels = k * k;
  const int64_t length = std::min(kTransposeBlock, p.channels - c);
  for (int64_t i = 0; i < length; ++i) {
    const T* kernel = weight + (c + i) * p.input_channels * pixels;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      Acc sum = 0;
      for (int64_t ch = 0; ch < p.input_channels; ++ch)
        sum += to_float(kernel[ch * pixels + pixel]);
      block[pixel * kTransposeBlock + i] = sum;
    }
  }
  for (int64_t y = k - 1; y >= 0; --y) {
    Acc right[kTransposeBlock] = {};
    for (int64_t x = k - 1; x >= 0; --x) {
      const Acc* pixel = block + (y * k + x) * kTransposeBlock;
      Acc* corner = block + (pixels + y * k + x) * kTransposeBlock;
      const Acc* below = corner + k * kTransposeBlock;
      for (int64_t i = 0; i < length; ++i) {
        right[i] += pixel[i];
        corner[i] = right[i] + (y + 1 < k ? below[i] : Acc{0});
      }
    }
  }
  for (int64_t row = 0; row < 2 * pixels; ++row) {
    std::copy_n(block + row * kTransposeBlock, length, table + row * p.channels + c);
  }
}

template <class Acc>
class PatchTerms {
 public:
  std::vector<int64_t> rows;  // of the table
  std::vector<Acc> weights;

  void clear() {
    rows.clear();
    weights.clear();
  }

  void add(int64_t row, Acc weight) {
    rows.push_back(row);
    weights.push_back(weight);
  }

  void set(const PatchTiles<Acc>& tiles, int64_t k, PatchWay way, Acc outside) {
    clear();
    for_each_term(
        tiles.pixels, k, way, outside, [&](int64_t i, int64_t j) { return tiles.value(i, j); },
        [&](int64_t row, Acc weight) { add(row, weight); });
  }
};

// Writes tokens: sums of rows of the table, or products of gathered patches with its pixel rows.
template <class T>
class TokenWriter {
 public:
  using Acc = accumulate_t<T>;

  TokenWriter(const MaskPatches& patches, const MaskPatchTokens& tokens, const Acc* background)
      : p_(patches),
        t_(tokens),
        table_(static_cast<const Acc*>(tokens.table)),
        background_(background),
        pixels_(p_.kernel_size * p_.kernel_size) {}

  // Whether an empty patch changes its token.
  bool skips_empty() const { return background_ == nullptr && t_.add_to == t_.out; }

  void write(int64_t patch, const PatchTerms<Acc>& terms) {
    rows_.clear();
    for (const int64_t row : terms.rows) rows_.push_back(table_ + row * t_.channels);
    write_rows(patch, terms.weights);
  }

  // To be written when the batch is full, or at the end.
  void gather(int64_t patch, const PatchTiles<Acc>& tiles, Acc outside) {
    panels_.resize(static_cast<size_t>(kBatch * pixels_));
    const int64_t place = std::ssize(batch_);
    Acc* panel = panels_.data() + place / kPanelRows * kPanelRows * pixels_ + place % kPanelRows;
    tiles.for_each_pixel(outside,
                         [&](int64_t pixel, Acc value) { panel[pixel * kPanelRows] = value; });
    batch_.push_back(patch);
    if (std::ssize(batch_) == kBatch) write_batch();
  }

  void write_batch() {
    if (batch_.empty()) return;
    sums_.resize(static_cast<size_t>(kBatch * t_.channels));
    panel_product<Acc>({.panels = panels_.data(),
                        .num_rows = std::ssize(batch_),
                        .depth = pixels_,
                        .rows = table_,
                        .row_stride = t_.channels,
                        .channels = t_.channels,
                        .out = sums_.data(),
                        .out_stride = t_.channels,
                        .add = false});
    for (int64_t place = 0; place < std::ssize(batch_); ++place) {
      rows_.assign(1, sums_.data() + place * t_.channels);
      write_rows(batch_[static_cast<size_t>(place)], one_);
    }
    batch_.clear();
  }

 private:
  // token = add_to + the rows with their weights + the background
  void write_rows(int64_t patch, const std::vector<Acc>& weights) {
    weights_ = weights;
    if (background_ != nullptr) {
      rows_.push_back(background_);
      weights_.push_back(1);
    }
    const int64_t per_tile = patches_down(p_) * patches_across(p_);
    const int64_t offset = patch / per_tile * t_.tile_stride + patch % per_tile * t_.token_stride;
    const T* add_to = static_cast<const T*>(t_.add_to);
    weighted_sum(static_cast<T*>(t_.out) + offset, add_to == nullptr ? nullptr : add_to + offset,
                 rows_.data(), weights_.data(), std::ssize(rows_), t_.channels);
  }

  const MaskPatches& p_;
  const MaskPatchTokens& t_;
  const Acc* table_;
  const Acc* background_;
  int64_t pixels_;
  std::vector<const Acc*> rows_;
  std::vector<Acc> weights_;
  const std::vector<Acc> one_{1};
  std::vector<int64_t> batch_;  // patches
  std::vector<Acc> panels_;     // [kBatch / kPanelRows, k * k, kPanelRows]
  std::vector<Acc> sums_;       // [kBatch, C]
};

template <class T>
void forward(const MaskPatches& p, const MaskPatchTokens& tokens, int num_threads) {
  using Acc = accumulate_t<T>;
  const int64_t k = p.kernel_size;
  const Acc outside = level_value<T>(0, p.outside);
  std::vector<Acc> background;
  if (tokens.add_background && (tokens.bias != nullptr || outside != 0)) {
    const Acc* full = static_cast<const Acc*>(tokens.table) + k * k * tokens.channels;
    const T* bias = static_cast<const T*>(tokens.bias);
    for (int64_t c = 0; c < tokens.channels; ++c) {
      background.push_back(outside * full[c] + (bias == nullptr ? Acc{0} : to_float(bias[c])));
    }
  }
  const int64_t row_elements = patches_across(p) * tokens.channels;
  if (tokens.add_to != tokens.out) {
    advise_huge_pages(tokens.out, patch_rows(p) * row_elements * int64_t{sizeof(T)});
  }
  parallel_for(patch_rows(p), kElementsPerThread / (row_elements + 1) + 1, num_threads,
               [&](int64_t begin, int64_t end) {
                 PatchTiles<Acc> tiles(p);
                 PatchTerms<Acc> terms;
                 TokenWriter<T> writer(p, tokens, background.empty() ? nullptr : background.data());
                 for (int64_t row = begin; row < end; ++row) {
                   tiles.set_row(row);
                   for (int64_t column = 0; column < patches_across(p); ++column) {
                     const int64_t patch = row * patches_across(p) + column;
                     const PatchKind kind = tiles.kind(column);
                     if (kind == PatchKind::kEmpty && writer.skips_empty()) continue;
                     terms.clear();
                     if (kind == PatchKind::kFull) terms.add(k * k, 1 - outside);
                     if (kind == PatchKind::kMixed) {
                       tiles.read(column);
                       const PatchChoice choice = choose_way(tiles.pixels, k);
                       if (is_noise(choice, k)) {
                         writer.gather(patch, tiles, outside);
                         continue;
                       }
                       terms.set(tiles, k, choice.way, outside);
                     }
                     writer.write(patch, terms);
                   }
                 }
                 writer.write_batch();
               });
}

template <class Acc>
void add_row(Acc* to, const Acc* from, int64_t length) {
  for (int64_t c = 0; c < length; ++c) to[c] += from[c];
}

// The gradient of the table, for channels [begin, end): forward, read backwards. Noise is a product
// again, of panels of pixels with the gradients of a batch of patches.
template <class T>
class TableGradient {
 public:
  using Acc = accumulate_t<T>;

  std::vector<Acc> table;  // [2 * k * k, length]

  TableGradient(const MaskPatches& patches, int64_t length)
      : table(static_cast<size_t>(2 * patches.kernel_size * patches.kernel_size * length)),
        p_(patches),
        length_(length),
        pixels_(p_.kernel_size * p_.kernel_size),
        outside_(level_value<T>(0, p_.outside)) {}

  void add(const T* grad, int64_t row, Acc weight) {
    Acc* to = table_row(row);
    weighted_sum(to, to, &grad, &weight, 1, length_);
  }

  void add(const T* grad, const PatchTiles<Acc>& tiles, PatchWay way) {
    for_each_term(
        tiles.pixels, p_.kernel_size, way, outside_,
        [&](int64_t i, int64_t j) { return tiles.value(i, j); },
        [&](int64_t row, Acc weight) { add(grad, row, weight); });
  }

  void gather(const T* grad, const PatchTiles<Acc>& tiles) {
    panels_.resize(static_cast<size_t>(round_up(pixels_, kPanelRows) * kBatch));
    rows_.resize(static_cast<size_t>(kBatch * length_));
    tiles.for_each_pixel(outside_, [&](int64_t pixel, Acc value) {
      const int64_t panel = pixel / kPanelRows * kBatch + count_;
      panels_[static_cast<size_t>(panel * kPanelRows + pixel % kPanelRows)] = value;
    });
    const Acc one = 1;
    weighted_sum(rows_.data() + count_ * length_, nullptr, &grad, &one, 1, length_);
    if (++count_ == kBatch) add_batch();
  }

  void add_batch() {
    if (count_ == 0) return;
    // A batch that is not full ends with patches of no weight.
    std::fill(rows_.begin() + count_ * length_, rows_.end(), Acc{0});
    panel_product<Acc>({.panels = panels_.data(),
                        .num_rows = pixels_,
                        .depth = kBatch,
                        .rows = rows_.data(),
                        .row_stride = length_,
                        .channels = length_,
                        .out = table.data(),
                        .out_stride = length_,
                        .add = true});
    std::fill(panels_.begin(), panels_.end(), Acc{0});
    count_ = 0;
  }

  // Takes the table apart: pixel (i, j) of the kernel stands in its own row and in all corner rows
  // above it and to its left. The pixel rows are the sums of both then.
  void add_corners() {
    const int64_t k = p_.kernel_size;
    Acc* corners = table_row(pixels_);
    for (int64_t i = 0; i < k; ++i) {
      Acc* row = corners + i * k * length_;
      for (int64_t j = 1; j < k; ++j) add_row(row + j * length_, row + (j - 1) * length_, length_);
      if (i > 0) add_row(row, row - k * length_, k * length_);
    }
    add_row(table.data(), corners, pixels_ * length_);
  }

 private:
  Acc* table_row(int64_t row) { return table.data() + row * length_; }

  const MaskPatches& p_;
  int64_t length_, pixels_;
  Acc outside_;
  int64_t count_ = 0;        // patches gathered
  std::vector<Acc> panels_;  // [ceil(k * k / kPanelRows), kBatch, kPanelRows]
  std::vector<Acc> rows_;    // [kBatch, length]
};

template <class T>
void backward_channels(const MaskPatches& p, const MaskPatchWeight& kernel, const T* grad,
                       T* grad_weight, int64_t begin, int64_t end) {
  using Acc = accumulate_t<T>;
  const int64_t k = p.kernel_size;
  const int64_t length = end - begin;
  const Acc outside = level_value<T>(0, p.outside);
  PatchTiles<Acc> tiles(p);
  TableGradient<T> gradient(p, length);
  for (int64_t row = 0; row < patch_rows(p); ++row) {
    tiles.set_row(row);
    for (int64_t column = 0; column < patches_across(p); ++column) {
      const int64_t patch = row * patches_across(p) + column;
      const T* from = grad + patch * kernel.channels + begin;
      const PatchKind kind = tiles.kind(column);
      if (outside != 0) gradient.add(from, k * k, outside);
      if (kind == PatchKind::kFull) gradient.add(from, k * k, 1 - outside);
      if (kind != PatchKind::kMixed) continue;
      tiles.read(column);
      const PatchChoice choice = choose_way(tiles.pixels, k);
      if (is_noise(choice, k)) {
        gradient.gather(from, tiles);
      } else {
        gradient.add(from, tiles, choice.way);
      }
    }
  }
  gradient.add_batch();
  gradient.add_corners();
  for (int64_t c = 0; c < length; ++c) {
    T* out = grad_weight + (begin + c) * kernel.input_channels * k * k;
    for (int64_t pixel = 0; pixel < k * k; ++pixel) {
      out[pixel] = from_float<T>(gradient.table[static_cast<size_t>(pixel * length + c)]);
    }
    for (int64_t ch = 1; ch < kernel.input_channels; ++ch)
      std::copy_n(out, k * k, out + ch * k * k);
  }
}

}  // namespace

void mask_patch_table(const MaskPatchWeight& kernel, const void* weight, void* table,
                      int num_threads) {
  dispatch_float(kernel.dtype, "mask_patch_table", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    const int64_t block_elements = 2 * kernel.kernel_size * kernel.kernel_size * kTransposeBlock;
    parallel_for(ceil_div(kernel.channels, kTransposeBlock),
                 kElementsPerThread / block_elements + 1, num_threads,
                 [&](int64_t begin, int64_t end) {
                   std::vector<Acc> buffer(static_cast<size_t>(block_elements));
                   for (int64_t block = begin; block < end; ++block) {
                     make_table(kernel, static_cast<const T*>(weight), block * kTransposeBlock,
                                buffer.data(), static_cast<Acc*>(table));
                   }
                 });
  });
}

void mask_patch_embed(const MaskPatches& patches, const MaskPatchTokens& tokens, int num_threads) {
  if (tokens.channels == 0) return;
  dispatch_float(patches.dtype, "mask_patch_embed", [&](auto tag) {
    forward<typename decltype(tag)::type>(patches, tokens, num_threads);
  });
}

void mask_patch_embed_backward(const MaskPatches& patches, const MaskPatchWeight& kernel,
                               const void* grad, void* grad_weight, int num_threads) {
  // The channels of a thread: multiples of this.
  constexpr int64_t kChannelBlock = 64;
  dispatch_float(patches.dtype, "mask_patch_embed_backward", [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(ceil_div(kernel.channels, kChannelBlock),
                 kElementsPerThread / (num_patches(patches) * kChannelBlock + 1) + 1, num_threads,
                 [&](int64_t begin, int64_t end) {
                   backward_channels(patches, kernel, static_cast<const T*>(grad),
                                     static_cast<T*>(grad_weight), begin * kChannelBlock,
                                     std::min(end * kChannelBlock, kernel.channels));
                 });
  });
}

}  // namespace fastregion::cpu
