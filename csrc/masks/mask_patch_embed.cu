// CUDA side of mask_patch_embed; the equations are in the header, the terms in patch_terms.h.
//
// Table: a block makes the rows of 32 channels; warps take kernel rows, then kernel columns.
// Forward: a block makes one token. Its first threads read the patch's pixels into shared memory,
// a row each; then every thread walks the same terms for its own kVector channels, so that loads
// and stores are coalesced and no thread waits for another. Blocks of empty patches leave at once
// where nothing is to be added.
// Traffic: add_to read, out written; the table (k = 14, C = 1024: 1.6 MB) comes from the L2 cache.
// Backward: a thread owns one channel of up to kPixels pixels of one kernel row and gathers over
// all patches: no atomics, and the order of the sum is fixed. Patches whose row is empty cost one
// read of the row.
#include "core/device.h"
#include "core/vectors.h"
#include "masks/mask_patch_embed.h"
#include "masks/patch_terms.h"
#include "regions/bit_rows.h"

namespace fastregion::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 128;    // a token of 1024 floats is two steps of 4 channels a thread
constexpr int kTableWarps = 16;  // a kernel of 14 rows in one step, of 64 in four
constexpr int kPixels = 16;      // sums of the gradient in registers: a row of GAR's kernel
static_assert(kThreads >= kLargestPatch, "a thread reads one row of a patch");

// Where a patch begins.
struct PatchPlace {
  int64_t row, column;  // of pixels, rows counted through all tiles
};

__device__ inline PatchPlace patch_place(const MaskPatches& p, int64_t patch) {
  const int64_t across = patches_across(p);
  const int64_t patch_row = patch / across;
  const int64_t tile = patch_row / patches_down(p);
  return {tile * p.height + patch_row % patches_down(p) * p.kernel_size,
          patch % across * p.kernel_size};
}

__device__ inline const uint8_t* grey_row(const MaskPatches& p, PatchPlace place, int64_t i) {
  return static_cast<const uint8_t*>(p.tiles) + (place.row + i) * p.width + place.column;
}

__device__ inline uint64_t bits_row(const MaskPatches& p, PatchPlace place, int64_t i) {
  const uint64_t* words = static_cast<const uint64_t*>(p.tiles);
  return read_bits(words + (place.row + i) * row_words(p.width), place.column, p.kernel_size);
}

template <class T>
__global__ void __launch_bounds__(kWarp* kTableWarps)
    mask_patch_table_kernel(MaskPatchWeight p,
                            const T* __restrict__ weight,  // [C, ch, k, k]
                            accumulate_t<T>* table) {      // [2 * k * k, C]
  using Acc = accumulate_t<T>;
  const int tid = static_cast<int>(threadIdx.x);
  const int64_t c = int64_t{blockIdx.x} * kWarp + tid % kWarp;
  const int64_t k = p.kernel_size;
  const int64_t pixels = k * k;
  if (c < p.channels) {
    for (int64_t i = tid / kWarp; i < k; i += kTableWarps) {
      Acc right = 0;
      for (int64_t j = k - 1; j >= 0; --j) {
        Acc sum = 0;
        for (int64_t ch = 0; ch < p.input_channels; ++ch) {
          sum += to_float(weight[(c * p.input_channels + ch) * pixels + i * k + j]);
        }
        right += sum;
        table[(i * k + j) * p.channels + c] = sum;
        table[(pixels + i * k + j) * p.channels + c] = right;
      }
    }
  }
  __syncthreads();  // the row sums are read by other warps of this block, and by nobody else
  if (c >= p.channels) return;
  for (int64_t j = tid / kWarp; j < k; j += kTableWarps) {
    Acc below = 0;
    for (int64_t i = k - 1; i >= 0; --i) {
      Acc* corner = table + (pixels + i * k + j) * p.channels + c;
      below += *corner;
      *corner = below;
    }
  }
}

struct PatchShared {
  PatchPixels pixels;
};

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads)
    mask_patch_embed_kernel(MaskPatches p, MaskPatchTokens t) {
  using Acc = accumulate_t<T>;
  auto& s = shared_memory<PatchShared>();
  const int tid = static_cast<int>(threadIdx.x);
  const int64_t patch = blockIdx.x;
  const int64_t k = p.kernel_size;
  const PatchPlace place = patch_place(p, patch);
  bool touched = false;
  if (tid < k) {
    uint64_t inside = 0, grey = 0;
    if (p.grey) {
      const uint8_t* levels = grey_row(p, place, tid);
      for (int64_t j = 0; j < k; ++j) {
        inside |= uint64_t{levels[j] == 255} << j;
        grey |= uint64_t{levels[j] != 255 && levels[j] != 0} << j;
      }
    } else {
      inside = bits_row(p, place, tid);
    }
    s.pixels.inside[tid] = inside;
    s.pixels.grey[tid] = grey;
    touched = (inside | grey) != 0;
  }
  const bool empty = !__syncthreads_or(touched);
  if (empty && t.add_to == t.out && !t.add_background) return;  // the whole block, no barrier below

  const int64_t per_tile = patches_down(p) * patches_across(p);
  const int64_t offset = patch / per_tile * t.tile_stride + patch % per_tile * t.token_stride;
  const Acc* table = static_cast<const Acc*>(t.table);
  const Acc outside = level_value<T>(0, p.outside);
  const PatchWay way = choose_way(s.pixels, k).way;
  for (int64_t c = int64_t{tid} * kVector; c < t.channels; c += kThreads * kVector) {
    Acc sums[kVector] = {};
    const auto add_row = [&](int64_t row, Acc weight) {
      const auto pack = *reinterpret_cast<const Pack<Acc, kVector>*>(table + row * t.channels + c);
      for (int v = 0; v < kVector; ++v) sums[v] += weight * pack.values[v];
    };
    const auto add_tokens = [&](const void* tokens, int64_t first) {
      const auto pack =
          *reinterpret_cast<const Pack<T, kVector>*>(static_cast<const T*>(tokens) + first);
      for (int v = 0; v < kVector; ++v) sums[v] += to_float(pack.values[v]);
    };
    if (t.add_to != nullptr) add_tokens(t.add_to, offset + c);
    if (!empty) {
      for_each_term(
          s.pixels, k, way, outside,
          [&](int64_t i, int64_t j) { return level_value<T>(grey_row(p, place, i)[j], p.outside); },
          add_row);
    }
    if (t.add_background) {
      if (outside != 0) add_row(k * k, outside);
      if (t.bias != nullptr) add_tokens(t.bias, c);
    }
    Pack<T, kVector> pack;
    for (int v = 0; v < kVector; ++v) pack.values[v] = from_float<T>(sums[v]);
    *reinterpret_cast<Pack<T, kVector>*>(static_cast<T*>(t.out) + offset + c) = pack;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    mask_patch_embed_backward_kernel(MaskPatches p, MaskPatchWeight kernel,
                                     const T* __restrict__ grad,     // [T * N, C]
                                     T* __restrict__ grad_weight) {  // [C, ch, k, k]
  using Acc = accumulate_t<T>;
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t i = blockIdx.y;
  const int64_t first = int64_t{blockIdx.z} * kPixels;
  if (c >= kernel.channels) return;  // no barrier below
  const int64_t k = p.kernel_size;
  const int64_t count = k - first < kPixels ? k - first : kPixels;
  const Acc outside = level_value<T>(0, p.outside);
  const uint64_t wanted = patch_row_mask(count);
  Acc sums[kPixels] = {};
  for (int64_t patch = 0; patch < num_patches(p); ++patch) {
    const PatchPlace place = patch_place(p, patch);
    if (p.grey) {
      const uint8_t* levels = grey_row(p, place, i) + first;
      uint8_t any = 0;
      for (int64_t j = 0; j < count; ++j) any |= levels[j];
      if (any == 0 && outside == 0) continue;  // the same for all threads of the block
      const Acc value = to_float(grad[patch * kernel.channels + c]);
      for (int64_t j = 0; j < kPixels; ++j) {
        if (j < count) sums[j] += value * level_value<T>(levels[j], p.outside);
      }
    } else {
      const uint64_t bits = bits_row(p, place, i) >> first & wanted;
      if (bits == 0 && outside == 0) continue;
      const Acc value = to_float(grad[patch * kernel.channels + c]);
      for (int64_t j = 0; j < kPixels; ++j)
        sums[j] += (bits >> j & 1) != 0 ? value : value * outside;
    }
  }
  for (int64_t ch = 0; ch < kernel.input_channels; ++ch) {
    T* out = grad_weight + ((c * kernel.input_channels + ch) * k + i) * k + first;
    for (int64_t j = 0; j < kPixels; ++j) {
      if (j < count) out[j] = from_float<T>(sums[j]);
    }
  }
}

}  // namespace

void mask_patch_table(const MaskPatchWeight& p, const void* weight, void* table,
                      cudaStream_t stream) {
  if (p.channels == 0) return;  // an empty grid is a launch error
  dispatch_float<__half, __nv_bfloat16>(p.dtype, "mask_patch_table", [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("mask_patch_table", mask_patch_table_kernel<T>,
           {.blocks = ceil_div<int64_t>(p.channels, kWarp),
            .threads = kWarp * kTableWarps,
            .stream = stream},
           p, static_cast<const T*>(weight), static_cast<accumulate_t<T>*>(table));
  });
}

void mask_patch_embed(const MaskPatches& p, const MaskPatchTokens& t, cudaStream_t stream) {
  if (num_patches(p) == 0 || t.channels == 0) return;
  MaskPatchTokens tokens = t;
  // Nothing to add: blocks of empty patches may leave.
  if (t.bias == nullptr && p.outside == 0) tokens.add_background = false;
  dispatch_float<__half, __nv_bfloat16>(p.dtype, "mask_patch_embed", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const bool vectors = vectorizable<T>({t.channels, t.tile_stride, t.token_stride},
                                         {t.table, t.bias, t.add_to, t.out});
    const auto kernel =
        vectors ? mask_patch_embed_kernel<T, kVectorLength<T>> : mask_patch_embed_kernel<T, 1>;
    launch("mask_patch_embed", kernel,
           {.blocks = num_patches(p),
            .threads = kThreads,
            .shared_bytes = sizeof(PatchShared),
            .stream = stream},
           p, tokens);
  });
}

void mask_patch_embed_backward(const MaskPatches& p, const MaskPatchWeight& kernel,
                               const void* grad, void* grad_weight, cudaStream_t stream) {
  if (kernel.channels == 0) return;  // without patches the kernel writes the zeros
  dispatch_float<__half, __nv_bfloat16>(p.dtype, "mask_patch_embed_backward", [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("mask_patch_embed_backward", mask_patch_embed_backward_kernel<T>,
           {.blocks = {ceil_div<int64_t>(kernel.channels, kThreads), p.kernel_size,
                       ceil_div<int64_t>(p.kernel_size, kPixels)},
            .threads = kThreads,
            .stream = stream},
           p, kernel, static_cast<const T*>(grad), static_cast<T*>(grad_weight));
  });
}

}  // namespace fastregion::cuda
