// Compiles FASTREGION_ISA_SOURCE once per instruction set; see core/isa.h. No include guard: a file
// may use it for several sources.

#define FASTREGION_ISA baseline
#define FASTREGION_ISA_LEVEL 0
#include FASTREGION_ISA_SOURCE
#undef FASTREGION_ISA
#undef FASTREGION_ISA_LEVEL

#ifdef FASTREGION_SEVERAL_ISAS

// x86-64-v3 and x86-64-v4 by their features, so that no tuning for a single machine comes along.

#define FASTREGION_ISA avx2
#define FASTREGION_ISA_LEVEL 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
#endif
#include FASTREGION_ISA_SOURCE
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef FASTREGION_ISA
#undef FASTREGION_ISA_LEVEL

#define FASTREGION_ISA avx512
#define FASTREGION_ISA_LEVEL 2
#if defined(__clang__)
#pragma clang attribute push(                                                                 \
    __attribute__((target(                                                                    \
        "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target( \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
#endif
#include FASTREGION_ISA_SOURCE
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef FASTREGION_ISA
#undef FASTREGION_ISA_LEVEL

#if defined(FASTREGION_ISA_BF16)
#define FASTREGION_ISA avx512_bf16
#define FASTREGION_ISA_LEVEL 3
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,"     \
                                                   "avx512vl,avx512cd,avx2,fma,f16c,bmi,bmi2," \
                                                   "lzcnt,popcnt"))),                          \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target( \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
#if !defined(FASTREGION_EMULATE_BF16_DOT)
#pragma GCC target("avx512bf16")  // on top of those
#endif
#endif
#include FASTREGION_ISA_SOURCE
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef FASTREGION_ISA
#undef FASTREGION_ISA_LEVEL
#endif  // FASTREGION_ISA_BF16

#endif  // FASTREGION_SEVERAL_ISAS

#undef FASTREGION_ISA_BF16
#undef FASTREGION_ISA_SOURCE
