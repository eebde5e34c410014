// Instruction sets: one binary, chosen at run time.
//
// A hot loop lives in an `.inc` file that core/for_each_isa.h includes once per instruction set:
//
//   // popcount.inc: no includes, no include guard; compiled up to three times
//   namespace fastregion::FASTREGION_ISA {
//   int64_t count_bits(const uint64_t* words, int64_t num_words) { ... }
//   }
//
//   // popcount.cpp: every header first, then the loop
//   #include <cstdint>
//   #include "core/isa.h"
//   #define FASTREGION_ISA_SOURCE "regions/popcount.inc"
//   #include "core/for_each_isa.h"
//   int64_t count_bits(const uint64_t* words, int64_t num_words) {
//     return FASTREGION_SELECT_ISA(count_bits)(words, num_words);
//   }
//
// Only what is written inside the `.inc` file is compiled for the newer instruction set. Headers
// come before, at the baseline: an inline function of the standard library compiled with AVX-512
// could otherwise be the copy that the linker keeps for everyone. In the `.inc` file,
// FASTREGION_ISA is the namespace (baseline, avx2, avx512) and FASTREGION_ISA_LEVEL is 0, 1 or 2.
#pragma once

namespace fastregion {

enum class Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The best instruction set of this machine, found once. The environment variable FASTREGION_ISA
// (baseline, avx2 or avx512) lowers it, for tests; it cannot raise it.
Isa active_isa();

const char* isa_name(Isa isa);

}  // namespace fastregion

#if defined(__x86_64__)
#define FASTREGION_SELECT_ISA(function)                                                       \
  (::fastregion::active_isa() == ::fastregion::Isa::kAvx512 ? &::fastregion::avx512::function \
   : ::fastregion::active_isa() == ::fastregion::Isa::kAvx2 ? &::fastregion::avx2::function   \
                                                            : &::fastregion::baseline::function)
#else
#define FASTREGION_SELECT_ISA(function) (&::fastregion::baseline::function)
#endif
