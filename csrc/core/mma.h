// Tensor cores and asynchronous copies: the instructions of compute capability 8.0 that kernels use
// by hand. Each wrapper is one instruction, with its stand-in for the host harness beside it.
//
// The fragments of m16n8k16, with g = lane / 4 and t = lane % 4; a register of 16-bit values holds
// two neighbours, the lower one in its lower half:
//
//   A [16, 16]  a0 = (g, 2t)   a1 = (g + 8, 2t)   a2 = (g, 2t + 8)   a3 = (g + 8, 2t + 8)
//   B [16, 8]   b0 = (2t, g)   b1 = (2t + 8, g)       neighbours lie below each other
//   C [16, 8]   c0, c1 = (g, 2t), (g, 2t + 1)   c2, c3 = (g + 8, 2t), (g + 8, 2t + 1)
//
// All lanes of a warp call mma_m16n8k16 and ldmatrix together.
#pragma once

#include "core/device.h"
#ifdef FASTREGION_SIMT
#include "simt/matrix.h"
#endif

namespace fastregion {

inline constexpr int kAsyncBytes = 16;  // of one asynchronous copy, and of a row for ldmatrix

#ifdef FASTREGION_SIMT

// Two values in one register.
template <class T>
uint32_t pack_pair(float low, float high) {
  return std::bit_cast<uint16_t>(from_float<T>(low)) |
         uint32_t{std::bit_cast<uint16_t>(from_float<T>(high))} << 16;
}

// c += a b, in float.
template <class T>
void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                  const SimtWhere& where = SimtWhere::current()) {
  simt::multiply_matrices<T>(c, a, b0, b1, where);
}

// kCount matrices of 8 x 8 16-bit values. Lane 8 q + i gives row i of matrix q, 16 bytes at a
// multiple of 16; register q holds (g, 2t) and (g, 2t + 1) of matrix q, transposed (2t, g) and
// (2t + 1, g).
template <int kCount, bool kTransposed>
void ldmatrix(uint32_t (&registers)[kCount], const void* row,
              const SimtWhere& where = SimtWhere::current()) {
  simt::load_matrices(registers, kCount, kTransposed, row, where);
}

// Copies 16 bytes to shared memory, both ends at multiples of 16, or writes zeros where `present`
// is false and reads nothing. The bytes are there after cp_async_wait, for the thread that asked.
inline void cp_async(void* to, const void* from, bool present,
                     const SimtWhere& where = SimtWhere::current()) {
  simt::copy_async(to, from, present, where);
}

// Ends a group of copies.
inline void cp_async_commit() { simt::commit_async_copies(); }

// Waits for all groups of this thread but the kNewest last ones.
template <int kNewest>
void cp_async_wait() {
  simt::wait_for_async_copies(kNewest);
}

#else

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

template <class T>
__device__ uint32_t pack_pair(float low, float high) {
  uint32_t pair;
  if constexpr (std::is_same_v<T, __half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
}

template <class T>
__device__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

template <int kCount, bool kTransposed>
__device__ void ldmatrix(uint32_t (&r)[kCount], const void* row) {
  static_assert(kCount == 2 || kCount == 4);
  const uint32_t address = shared_address(row);
  // "memory": not moved over the stores and barriers that fill the tile.
  if constexpr (kCount == 4 && kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kCount == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  }
}

// .cg: past the L1 cache, which other blocks' tiles do not share.
__device__ inline void cp_async(void* to, const void* from, bool present) {
  const int bytes = present ? kAsyncBytes : 0;  // the rest of the 16 is zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(bytes)
               : "memory");
}

__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kNewest>
__device__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

#endif  // FASTREGION_SIMT

}  // namespace fastregion
