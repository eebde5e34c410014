// Instruction sets: one binary, chosen at run time.
//
// A hot loop lives in an `.inc` file that core/for_each_isa.h includes once per instruction set:
//
//   // popcount.inc: no include guard, and includes only of other .inc files; compiled once a set
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
//
// A loop that multiplies bfloat16 may be compiled a fourth time, namespace avx512_bf16 and level 3,
// for processors with products of bfloat16 pairs: FASTREGION_ISA_BF16 is defined before the include
// of core/for_each_isa.h, and FASTREGION_SELECT_ISA_BF16 selects. Everything else is AVX-512 there.
// Where FASTREGION_EMULATE_BF16_DOT is defined (a CMake option, for tests) any AVX-512 processor
// counts as one of these, and the products are put together from others.
#pragma once

// The tests of the host SIMT harness run CUDA kernels: it builds the CPU's for the baseline alone.
#if defined(__x86_64__) && !defined(FASTREGION_SIMT)
#define FASTREGION_SEVERAL_ISAS
#endif

namespace fastregion {

enum class Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

// The best instruction set of this machine, found once. The environment variable FASTREGION_ISA
// (baseline, avx2, avx512 or avx512_bf16) lowers it, for tests; it cannot raise it.
Isa active_isa();

const char* isa_name(Isa isa);

}  // namespace fastregion

#ifdef FASTREGION_SEVERAL_ISAS
#define FASTREGION_SELECT_ISA(function)                                                       \
  (::fastregion::active_isa() >= ::fastregion::Isa::kAvx512 ? &::fastregion::avx512::function \
   : ::fastregion::active_isa() == ::fastregion::Isa::kAvx2 ? &::fastregion::avx2::function   \
                                                            : &::fastregion::baseline::function)
// For a function of T: level 3 exists, and is compiled, for BFloat16 alone.
#define FASTREGION_SELECT_ISA_BF16(T, function)                         \
  ([] {                                                                 \
    if constexpr (std::is_same_v<T, ::fastregion::BFloat16>) {          \
      if (::fastregion::active_isa() == ::fastregion::Isa::kAvx512Bf16) \
        return &::fastregion::avx512_bf16::function;                    \
    }                                                                   \
    return FASTREGION_SELECT_ISA(function);                             \
  }())
#else
#define FASTREGION_SELECT_ISA(function) (&::fastregion::baseline::function)
#define FASTREGION_SELECT_ISA_BF16(T, function) FASTREGION_SELECT_ISA(function)
#endif
