// Declarations of the loops in bit_rows.inc, for the files of this folder that choose among them.
#pragma once

#include <cstdint>

#include "core/isa.h"

#define FASTREGION_DECLARE(isa)                                                                   \
  namespace isa {                                                                                 \
  void pack_bits(const uint8_t* mask, int64_t height, int64_t width, uint64_t* words);            \
  void unpack_bits(const uint64_t* words, int64_t height, int64_t width, uint8_t* mask);          \
  void unpack_onto_zeros(const uint64_t* words, int64_t height, int64_t width, uint8_t* mask);    \
  bool any_bit(const uint64_t* words, int64_t num_words);                                         \
  int64_t count_rows(const uint64_t* rows, int64_t num_rows, int64_t num_words,                   \
                     uint64_t* columns);                                                          \
  int64_t count_common(const uint64_t* a, const uint64_t* b, int64_t num_rows, int64_t num_words, \
                       int64_t stride);                                                           \
  void xor_row(uint64_t* row, const uint64_t* above, int64_t num_words);                          \
  void gather_changes(const uint64_t* rows, const uint64_t* above, int64_t num_rows,              \
                      int64_t num_words, uint64_t* changes);                                      \
  void transpose_block(uint64_t* block);                                                          \
  }

namespace fastregion {
FASTREGION_DECLARE(baseline)
#ifdef FASTREGION_SEVERAL_ISAS
FASTREGION_DECLARE(avx2)
FASTREGION_DECLARE(avx512)
#endif
}  // namespace fastregion

#undef FASTREGION_DECLARE
