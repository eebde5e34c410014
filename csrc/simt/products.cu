#include <utility>

#include "core/mma.h"
#include "simt/products.h"

namespace fastregion::simt {
namespace {

constexpr int kWarp = 32;

template <class T>
struct alignas(16) Shared {
  T a[16][16 + 8];
  T b[16 * 8];
};

// Every lane copies one 16-byte word of a, and half of them one of b.
template <class T, bool kByRows>
__global__ void tile_product_kernel(const T* a, const T* b, float* c, Swap swap) {
  auto& s = shared_memory<Shared<T>>();
  const int lane = static_cast<int>(threadIdx.x);
  cp_async(s.a[lane / 2] + lane % 2 * 8, a + 8 * lane, true);
  cp_async_commit();
  if (lane < 16) cp_async(s.b + 8 * lane, b + 8 * lane, true);
  cp_async_commit();
  cp_async_wait<1>();
  __syncwarp();
  uint32_t left[4], right[2];
  ldmatrix<4, false>(left, s.a[lane % 16] + lane / 16 * 8);
  cp_async_wait<0>();
  __syncwarp();
  const int row = swap == Swap::kLanesOfB ? 7 - lane % 8 : lane % 8, half = lane / 8 % 2;
  ldmatrix<2, kByRows>(right, s.b + (kByRows ? 8 * (row + 8 * half) : 16 * row + 8 * half));
  if (swap == Swap::kHalvesOfA) std::swap(left[1], left[2]);
  if (swap == Swap::kHalvesOfB) std::swap(right[0], right[1]);
  float sums[4];
  for (int e = 0; e < 4; ++e) sums[e] = c[(lane / 4 + e / 2 * 8) * 8 + lane % 4 * 2 + e % 2];
  mma_m16n8k16<T>(sums, left, right[0], right[1]);
  for (int e = 0; e < 4; ++e) c[(lane / 4 + e / 2 * 8) * 8 + lane % 4 * 2 + e % 2] = sums[e];
}

template <class T>
void run(const void* a, const void* b, float* c, bool b_by_rows, Swap swap) {
  launch("tile_product", b_by_rows ? tile_product_kernel<T, true> : tile_product_kernel<T, false>,
         {.blocks = 1, .threads = kWarp, .shared_bytes = int64_t{sizeof(Shared<T>)}},
         static_cast<const T*>(a), static_cast<const T*>(b), c, swap);
}

}  // namespace

void tile_product(DType dtype, const void* a, const void* b, float* c, bool b_by_rows, Swap swap) {
  check(dtype == DType::kFloat16 || dtype == DType::kBFloat16,
        "tile_product: dtype must be float16 or bfloat16, got code ", static_cast<int>(dtype));
  dtype == DType::kFloat16 ? run<__half>(a, b, c, b_by_rows, swap)
                           : run<__nv_bfloat16>(a, b, c, b_by_rows, swap);
}

}  // namespace fastregion::simt
