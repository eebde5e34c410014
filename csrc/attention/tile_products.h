// Products of tiles in shared memory, the inner loops of attention. A warp makes 16 rows of them:
//
//   row_products    c[i, j] += sum over k of a[i, k] b[j, k]      both tiles [rows, width]
//   weighted_rows   c[i, k] += sum over j of w[i, j] b[j, k]      the weights from registers
//
// Results and weights are fragments [16, 8] in the layout of mma's C: with g = lane / 4 and
// t = lane % 4 a lane holds (g, 2t), (g, 2t + 1), (g + 8, 2t) and (g + 8, 2t + 1). So what
// row_products gives is what weighted_rows takes, and a row lies in four neighbouring lanes.
// 16-bit types run on tensor cores, float and double as multiply-adds in the same layout.
#pragma once

#include "core/device.h"
#include "core/mma.h"

namespace fastregion::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kWarpRows = 16;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

// Rows of `kWidth` columns, with zeros up to a whole step of the tensor cores, and 16 bytes between
// them: an odd number of 16-byte words from row to row reads without bank conflicts.
template <class T, int kNumRows, int kWidth>
struct alignas(16) Tile {
  static constexpr int kVector = 16 / int{sizeof(T)};
  static constexpr int kColumns = sizeof(T) == 2 ? ceil_div(kWidth, 16) * 16 : kWidth;
  T rows[kNumRows][kColumns + kVector];
};

template <class T, int kWidth>
inline constexpr int kRowBytes = int{sizeof(Tile<T, 1, kWidth>)};

// The rows of `a` from `first_row` on, all rows of `b`; only columns below `width` are not zero.
template <class T, int kRowsA, int kRowsB, int kWidth>
__device__ void row_products(accumulate_t<T> (&c)[kRowsB / 8][4], const Tile<T, kRowsA, kWidth>& a,
                             int first_row, const Tile<T, kRowsB, kWidth>& b,
                             [[maybe_unused]] int width) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if constexpr (sizeof(T) == 2) {
    constexpr int kSteps = Tile<T, 1, kWidth>::kColumns / 16;
#pragma unroll(kSteps <= 5 ? kSteps : 4)
    for (int step = 0; step < kSteps; ++step) {
      const int k = 16 * step;
      uint32_t left[4], right[4];
      ldmatrix<4, false>(left, a.rows[first_row + lane % 16] + k + lane / 16 * 8);
#pragma unroll
      for (int n = 0; n < kRowsB / 8; n += 2) {
        ldmatrix<4, false>(right, b.rows[8 * n + lane % 8 + lane / 16 * 8] + k + lane / 8 % 2 * 8);
        mma_m16n8k16<T>(c[n], left, right[0], right[1]);
        mma_m16n8k16<T>(c[n + 1], left, right[2], right[3]);
      }
    }
  } else {
    constexpr int kVector = Tile<T, 1, kWidth>::kVector;
    using Vector = Pack<T, kVector>;
    const auto vector = [](const T* values) { return *reinterpret_cast<const Vector*>(values); };
    const int g = lane / 4, t = lane % 4;
#pragma unroll 1
    for (int k = 0; k < width; k += kVector) {
      const Vector left[] = {vector(a.rows[first_row + g] + k),
                             vector(a.rows[first_row + g + 8] + k)};
#pragma unroll
      for (int n = 0; n < kRowsB / 8; ++n) {
        const Vector right[] = {vector(b.rows[8 * n + 2 * t] + k),
                                vector(b.rows[8 * n + 2 * t + 1] + k)};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            c[n][e] += left[e / 2].values[v] * right[e % 2].values[v];
          }
        }
      }
    }
  }
}

// All rows of `b`, its columns from `first_column` on.
template <class T, int kRowsB, int kWidth, int kFragments>
__device__ void weighted_rows(accumulate_t<T> (&c)[kFragments][4],
                              const accumulate_t<T> (&weights)[kRowsB / 8][4],
                              const Tile<T, kRowsB, kWidth>& b, int first_column) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int j = 0; j < kRowsB / 8; j += 2) {
      // Two results of 16 x 8 are one operand of 16 x 16, as they lie.
      const uint32_t left[4] = {pack_pair<T>(weights[j][0], weights[j][1]),
                                pack_pair<T>(weights[j][2], weights[j][3]),
                                pack_pair<T>(weights[j + 1][0], weights[j + 1][1]),
                                pack_pair<T>(weights[j + 1][2], weights[j + 1][3])};
      const T* row = b.rows[8 * j + lane % 16] + first_column;
#pragma unroll
      for (int n = 0; n + 1 < kFragments; n += 2) {
        uint32_t right[4];
        ldmatrix<4, true>(right, row + 8 * n + lane / 16 * 8);
        mma_m16n8k16<T>(c[n], left, right[0], right[1]);
        mma_m16n8k16<T>(c[n + 1], left, right[2], right[3]);
      }
      if constexpr (kFragments % 2 == 1) {
        uint32_t right[2];
        ldmatrix<2, true>(right, row + 8 * (kFragments - 1));
        mma_m16n8k16<T>(c[kFragments - 1], left, right[0], right[1]);
      }
    }
  } else {
    using Pair = Pack<T, 2>;
    const int t = lane % 4;
#pragma unroll
    for (int j = 0; j < kRowsB / 8; ++j) {
#pragma unroll 1
      for (int owner = 0; owner < 4; ++owner) {  // of the weights of rows 2 owner and 2 owner + 1
        T left[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          left[e] = __shfl_sync(kAllLanes, weights[j][e], lane / 4 * 4 + owner);
        }
        const int row = 8 * j + 2 * owner;
#pragma unroll
        for (int n = 0; n < kFragments; ++n) {
          const int column = first_column + 8 * n + 2 * t;
          const Pair even = *reinterpret_cast<const Pair*>(b.rows[row] + column);
          const Pair odd = *reinterpret_cast<const Pair*>(b.rows[row + 1] + column);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            c[n][e] +=
                left[e / 2 * 2] * even.values[e % 2] + left[e / 2 * 2 + 1] * odd.values[e % 2];
          }
        }
      }
    }
  }
}

}  // namespace fastregion::cuda
