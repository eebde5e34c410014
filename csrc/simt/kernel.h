// The kernel side of the host SIMT harness: the part of CUDA that our kernels use, so that the same
// source compiles for the host and runs, thread by thread, in runtime.cpp. Included by
// core/device.h only, in builds with FASTREGION_SIMT; a test instrument, not a backend.
//
// What a kernel may expect here is what CUDA promises and no more: threads of a block run in any
// order between barriers, lanes of a warp in any order between warp operations. Shared memory
// starts as 0xFF bytes (NaN, -1). A broken promise ends the launch with an exception that names
// the threads and the source lines.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <tuple>
#include <type_traits>
#include <utility>

#include "core/dtype.h"
#include "core/stream.h"

// ---- attributes -------------------------------------------------------------------------------
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) alignas(bytes)

// ---- vector types and small floats ------------------------------------------------------------
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

constexpr uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

using __half = fastregion::Half;
using __nv_bfloat16 = fastregion::BFloat16;

// Set at each switch to a thread. Plain globals: a launch never leaves its operating-system thread.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// ---- runtime ----------------------------------------------------------------------------------
namespace fastregion::simt {

using Where = std::source_location;

enum class WarpOperation {
  kSync,
  kBallot,
  kAny,
  kAll,
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kMultiply,
  kLoadMatrices
};

// Blocks until the lanes of `mask` are here; returns this lane's result of the operation.
// `value` is what the lane gives, `operand` the source lane, distance or lane mask of a shuffle.
uint64_t warp_operation(WarpOperation operation, uint32_t mask, uint64_t value, int operand,
                        int width, const Where& where);

// The same for a whole warp on matrices: every lane leaves a record, and when the last one is here
// `compute` fills in all results, given the records by lane.
void matrix_operation(WarpOperation operation, void (*compute)(void* const* lanes), void* lane,
                      const Where& where);

enum class Reduction { kNone, kOr, kAnd, kCount };

// Blocks until every thread of the block is here.
int block_barrier(Reduction reduction, int predicate, const Where& where);

// The block's dynamic shared memory; fails unless it has room for `bytes`.
void* dynamic_shared_memory(std::size_t bytes, const Where& where);

// A chance for other threads to run, taken in random order only.
void maybe_yield();

struct Shape {
  dim3 blocks, threads;
  std::size_t shared_bytes;
};

// Runs all threads of a grid to their ends; throws std::runtime_error with what went wrong.
void run(const char* op, const Shape& shape, void (*body)(void*), void* argument);

template <class T>
T shuffle(WarpOperation operation, uint32_t mask, T value, int operand, int width,
          const Where& where) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 4 or 8 bytes");
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  const uint64_t given = std::bit_cast<Bits>(value);
  const uint64_t got = warp_operation(operation, mask, given, operand, width, where);
  return std::bit_cast<T>(static_cast<Bits>(got));
}

}  // namespace fastregion::simt

// ---- barriers, votes, shuffles ----------------------------------------------------------------
// The defaulted last parameter is the caller's place: barriers are told apart by line and column.
using SimtWhere = fastregion::simt::Where;

inline void __syncthreads(const SimtWhere& where = SimtWhere::current()) {
  fastregion::simt::block_barrier(fastregion::simt::Reduction::kNone, 0, where);
}
inline int __syncthreads_or(int predicate, const SimtWhere& where = SimtWhere::current()) {
  return fastregion::simt::block_barrier(fastregion::simt::Reduction::kOr, predicate, where);
}
inline int __syncthreads_and(int predicate, const SimtWhere& where = SimtWhere::current()) {
  return fastregion::simt::block_barrier(fastregion::simt::Reduction::kAnd, predicate, where);
}
inline int __syncthreads_count(int predicate, const SimtWhere& where = SimtWhere::current()) {
  return fastregion::simt::block_barrier(fastregion::simt::Reduction::kCount, predicate, where);
}

inline void __syncwarp(uint32_t mask = 0xffffffffu, const SimtWhere& where = SimtWhere::current()) {
  fastregion::simt::warp_operation(fastregion::simt::WarpOperation::kSync, mask, 0, 0, 32, where);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate,
                              const SimtWhere& where = SimtWhere::current()) {
  return static_cast<uint32_t>(fastregion::simt::warp_operation(
      fastregion::simt::WarpOperation::kBallot, mask, predicate != 0, 0, 32, where));
}
inline int __any_sync(uint32_t mask, int predicate, const SimtWhere& where = SimtWhere::current()) {
  return static_cast<int>(fastregion::simt::warp_operation(fastregion::simt::WarpOperation::kAny,
                                                           mask, predicate != 0, 0, 32, where));
}
inline int __all_sync(uint32_t mask, int predicate, const SimtWhere& where = SimtWhere::current()) {
  return static_cast<int>(fastregion::simt::warp_operation(fastregion::simt::WarpOperation::kAll,
                                                           mask, predicate != 0, 0, 32, where));
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int lane, int width = 32,
              const SimtWhere& where = SimtWhere::current()) {
  return fastregion::simt::shuffle(fastregion::simt::WarpOperation::kShuffle, mask, value, lane,
                                   width, where);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned distance, int width = 32,
                 const SimtWhere& where = SimtWhere::current()) {
  return fastregion::simt::shuffle(fastregion::simt::WarpOperation::kShuffleUp, mask, value,
                                   static_cast<int>(distance), width, where);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned distance, int width = 32,
                   const SimtWhere& where = SimtWhere::current()) {
  return fastregion::simt::shuffle(fastregion::simt::WarpOperation::kShuffleDown, mask, value,
                                   static_cast<int>(distance), width, where);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = 32,
                  const SimtWhere& where = SimtWhere::current()) {
  return fastregion::simt::shuffle(fastregion::simt::WarpOperation::kShuffleXor, mask, value, lanes,
                                   width, where);
}

// ---- atomics ----------------------------------------------------------------------------------
template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  fastregion::simt::maybe_yield();
  return std::atomic_ref<T>(*address).fetch_add(value, std::memory_order_relaxed);
}

inline void __threadfence() {}
inline void __threadfence_block() {}
