// Mask tiles as the CPU kernels of mask_patch_embed read them: patch by patch, the empty and the
// full ones told apart by whole rows of pixels, so that only patches on an outline are looked at.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "masks/mask_patch_embed.h"
#include "masks/patch_terms.h"
#include "regions/bit_rows.h"

namespace fastregion::cpu {

enum class PatchKind { kEmpty, kFull, kMixed };

// One row of patches at a time, counted through all tiles.
template <class Acc>
class PatchTiles {
 public:
  explicit PatchTiles(const MaskPatches& patches)
      : p_(patches),
        row_size_(p_.grey ? p_.width : row_words(p_.width)),
        any_bits_(p_.grey ? 0 : static_cast<size_t>(row_size_)),
        all_bits_(any_bits_.size()),
        any_levels_(p_.grey ? static_cast<size_t>(row_size_) : 0),
        all_levels_(any_levels_.size()) {
    for (int level = 0; p_.grey && level < 256; ++level) {
      dispatch_float(p_.dtype, "mask_patch_embed", [&](auto tag) {
        using T = typename decltype(tag)::type;
        values_[static_cast<size_t>(level)] = static_cast<Acc>(level_value<T>(level, p_.outside));
      });
    }
  }

  PatchPixels pixels;  // of the last patch read

  void set_row(int64_t row) {
    const int64_t y = row / patches_down(p_) * p_.height + row % patches_down(p_) * p_.kernel_size;
    if (p_.grey) {
      first_level_ = static_cast<const uint8_t*>(p_.tiles) + y * row_size_;
      gather(first_level_, any_levels_, all_levels_);
    } else {
      first_word_ = static_cast<const uint64_t*>(p_.tiles) + y * row_size_;
      gather(first_word_, any_bits_, all_bits_);
    }
  }

  PatchKind kind(int64_t column) const {
    const int64_t k = p_.kernel_size;
    const int64_t x = column * k;
    if (!p_.grey) {
      if (read_bits(any_bits_.data(), x, k) == 0) return PatchKind::kEmpty;
      const bool full = read_bits(all_bits_.data(), x, k) == patch_row_mask(k);
      return full ? PatchKind::kFull : PatchKind::kMixed;
    }
    uint8_t any = 0, all = 255;
    for (int64_t j = 0; j < k; ++j) {
      any |= any_levels_[static_cast<size_t>(x + j)];
      all &= all_levels_[static_cast<size_t>(x + j)];
    }
    return any == 0 ? PatchKind::kEmpty : all == 255 ? PatchKind::kFull : PatchKind::kMixed;
  }

  void read(int64_t column) {
    const int64_t k = p_.kernel_size;
    column_ = column;
    for (int64_t i = 0; i < k; ++i) {
      pixels.inside[i] = pixels.grey[i] = 0;
      if (!p_.grey) {
        pixels.inside[i] = read_bits(first_word_ + i * row_size_, column * k, k);
        continue;
      }
      for (int64_t j = 0; j < k; ++j) {
        const uint8_t level = first_level_[i * row_size_ + column * k + j];
        pixels.inside[i] |= uint64_t{level == 255} << j;
        pixels.grey[i] |= uint64_t{level != 255 && level != 0} << j;
      }
    }
  }

  // What pixel (i, j) of the patch read stands for; for grey tiles.
  Acc value(int64_t i, int64_t j) const {
    return values_[first_level_[i * row_size_ + column_ * p_.kernel_size + j]];
  }

  // Calls body(pixel i * k + j, value - outside) for all pixels of the patch read.
  template <class Body>
  void for_each_pixel(Acc outside, Body&& body) const {
    const int64_t k = p_.kernel_size;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const Acc inside = static_cast<Acc>(pixels.inside[i] >> j & 1);
        body(i * k + j, p_.grey ? value(i, j) - outside : inside * (1 - outside));
      }
    }
  }

 private:
  template <class Element>
  void gather(const Element* first, std::vector<Element>& any, std::vector<Element>& all) const {
    std::copy_n(first, row_size_, any.begin());
    std::copy_n(first, row_size_, all.begin());
    for (int64_t i = 1; i < p_.kernel_size; ++i) {
      const Element* row = first + i * row_size_;
      for (size_t x = 0; x < any.size(); ++x) {
        any[x] |= row[x];
        all[x] &= row[x];
      }
    }
  }

  const MaskPatches& p_;
  int64_t row_size_;                              // words or bytes
  std::vector<uint64_t> any_bits_, all_bits_;     // or and and of the pixel rows
  std::vector<uint8_t> any_levels_, all_levels_;  // likewise, grey
  std::array<Acc, 256> values_{};                 // of grey levels
  const uint64_t* first_word_ = nullptr;
  const uint8_t* first_level_ = nullptr;
  int64_t column_ = 0;
};

}  // namespace fastregion::cpu
