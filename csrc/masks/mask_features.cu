// CUDA side of mask_encode's convolutions over all positions, and their gradient; the equations
// are in mask_encode.h.
//
// Forward: h, one thread a value, into the workspace; then f, one thread a value, from it. The
// gradient makes h again, then f and, from both, gh = dh * (h > 0), one thread a value that gathers
// from the at most 2 x 2 positions that read it; then one block for each pair of channels sums its
// 3 x 3 taps and bias over all tiles. No atomics; the order of every sum is fixed.
// Traffic: h is 2 N times the size of the tiles in float32 and mostly stays in the L2 cache.
#include "core/device.h"
#include "masks/mask_encode.h"

namespace fastregion::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTaps = 3;
constexpr int kSums = kTaps * kTaps + 1;  // taps, then the bias

__host__ __device__ int64_t hidden_size(const MaskEncodeParams& p) {
  return half_size(p.height) * half_size(p.width);
}

// Pixel (y, x) of a tile, 0 outside.
template <class Acc>
__device__ Acc pixel(const MaskEncodeParams& p, int64_t tile, int64_t y, int64_t x) {
  if (y < 0 || x < 0 || y >= p.height || x >= p.width) return 0;
  return static_cast<Acc>(p.scale) * static_cast<Acc>(p.tiles[(tile * p.height + y) * p.width + x]);
}

// hidden [T, M, H1, W1] in Acc
template <class T>
__global__ void __launch_bounds__(kThreads)
    hidden_kernel(MaskEncodeParams p, accumulate_t<T>* hidden, int64_t total) {
  using Acc = accumulate_t<T>;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t x = index % half_size(p.width);
  const int64_t y = index / half_size(p.width) % half_size(p.height);
  const int64_t m = index / hidden_size(p) % p.hidden;
  const int64_t tile = index / hidden_size(p) / p.hidden;
  const T* weight = static_cast<const T*>(p.conv1_weight) + m * kTaps * kTaps;
  Acc sum = to_float(static_cast<const T*>(p.conv1_bias)[m]);
  for (int k = 0; k < kTaps; ++k) {
    for (int j = 0; j < kTaps; ++j) {
      sum += to_float(weight[k * kTaps + j]) * pixel<Acc>(p, tile, 2 * y - 1 + k, 2 * x - 1 + j);
    }
  }
  hidden[index] = sum < 0 ? Acc{0} : sum;  // NaN stays
}

// Value (y, x) of plane h[tile, m], 0 outside.
template <class Acc>
__device__ Acc hidden_value(const MaskEncodeParams& p, const Acc* plane, int64_t y, int64_t x) {
  if (y < 0 || x < 0 || y >= half_size(p.height) || x >= half_size(p.width)) return 0;
  return plane[y * half_size(p.width) + x];
}

template <class T>
__device__ accumulate_t<T> feature(const MaskEncodeParams& p, const accumulate_t<T>* hidden,
                                   int64_t tile, int64_t n, int64_t y, int64_t x) {
  using Acc = accumulate_t<T>;
  Acc sum = to_float(static_cast<const T*>(p.conv2_bias)[n]);
  for (int64_t m = 0; m < p.hidden; ++m) {
    const T* weight = static_cast<const T*>(p.conv2_weight) + (n * p.hidden + m) * kTaps * kTaps;
    const Acc* plane = hidden + (tile * p.hidden + m) * hidden_size(p);
    for (int i = 0; i < kTaps; ++i) {
      for (int j = 0; j < kTaps; ++j) {
        sum +=
            to_float(weight[i * kTaps + j]) * hidden_value(p, plane, 2 * y - 1 + i, 2 * x - 1 + j);
      }
    }
  }
  return sum < 0 ? Acc{0} : sum;
}

// features [T, N, P]
template <class T>
__global__ void __launch_bounds__(kThreads)
    features_kernel(MaskEncodeParams p,
                    const accumulate_t<T>* hidden,  // [T, M, H1, W1]
                    T* features, int64_t total) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t columns = quarter_size(p.width);
  const int64_t position = index % num_positions(p);
  const int64_t n = index / num_positions(p) % p.tokens;
  const int64_t tile = index / num_positions(p) / p.tokens;
  features[index] =
      from_float<T>(feature<T>(p, hidden, tile, n, position / columns, position % columns));
}

// masked [T, N, P]: g = grad where the feature is positive, else 0.
template <class T>
__global__ void __launch_bounds__(kThreads)
    masked_grad_kernel(MaskEncodeParams p,
                       const accumulate_t<T>* hidden,  // [T, M, H1, W1]
                       const T* grad,                  // [T, N, P]
                       accumulate_t<T>* masked, int64_t total) {
  using Acc = accumulate_t<T>;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t columns = quarter_size(p.width);
  const int64_t position = index % num_positions(p);
  const int64_t n = index / num_positions(p) % p.tokens;
  const int64_t tile = index / num_positions(p) / p.tokens;
  const Acc value = feature<T>(p, hidden, tile, n, position / columns, position % columns);
  masked[index] = value > 0 ? Acc{to_float(grad[index])} : Acc{0};
}

// hidden_grad [T, M, H1, W1] = (h > 0) * sum over n and the taps of conv2_weight * g
template <class T>
__global__ void __launch_bounds__(kThreads)
    hidden_grad_kernel(MaskEncodeParams p,
                       const accumulate_t<T>* hidden,  // [T, M, H1, W1]
                       const accumulate_t<T>* masked,  // [T, N, P]
                       accumulate_t<T>* hidden_grad, int64_t total) {
  using Acc = accumulate_t<T>;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t x = index % half_size(p.width);
  const int64_t y = index / half_size(p.width) % half_size(p.height);
  const int64_t m = index / hidden_size(p) % p.hidden;
  const int64_t tile = index / hidden_size(p) / p.hidden;
  const int64_t rows = quarter_size(p.height), columns = quarter_size(p.width);
  Acc sum = 0;
  if (hidden[index] > 0) {
    for (int64_t n = 0; n < p.tokens; ++n) {
      const T* weight = static_cast<const T*>(p.conv2_weight) + (n * p.hidden + m) * kTaps * kTaps;
      const Acc* plane = masked + (tile * p.tokens + n) * num_positions(p);
      // Row y is read by position row (y + 1 - i) / 2 at tap row i, where that is whole.
      for (int64_t i = (y + 1) % 2; i < kTaps; i += 2) {
        const int64_t row = (y + 1 - i) / 2;
        if (y + 1 < i || row >= rows) continue;
        for (int64_t j = (x + 1) % 2; j < kTaps; j += 2) {
          const int64_t column = (x + 1 - j) / 2;
          if (x + 1 < j || column >= columns) continue;
          sum += to_float(weight[i * kTaps + j]) * plane[row * columns + column];
        }
      }
    }
  }
  hidden_grad[index] = sum;
}

template <class Acc>
struct TapSums {
  Acc values[kThreads][kSums];
};

// Adds up the sums of all threads, in a fixed order, and stores them.
template <class T>
__device__ void store_sums(const accumulate_t<T>* sums, T* weight, T* bias) {
  using Acc = accumulate_t<T>;
  auto& shared = shared_memory<TapSums<Acc>>();
  const int tid = static_cast<int>(threadIdx.x);
  for (int k = 0; k < kSums; ++k) shared.values[tid][k] = sums[k];
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (tid < half) {
      for (int k = 0; k < kSums; ++k) shared.values[tid][k] += shared.values[tid + half][k];
    }
  }
  if (tid != 0) return;  // no barrier below
  for (int k = 0; k < kTaps * kTaps; ++k) weight[k] = from_float<T>(shared.values[0][k]);
  if (bias != nullptr) *bias = from_float<T>(shared.values[0][kTaps * kTaps]);
}

// One block for a pair (n, m).
template <class T>
__global__ void __launch_bounds__(kThreads)
    conv2_grad_kernel(MaskEncodeParams p,
                      const accumulate_t<T>* hidden,  // [T, M, H1, W1]
                      const accumulate_t<T>* masked,  // [T, N, P]
                      T* conv2_weight, T* conv2_bias) {
  using Acc = accumulate_t<T>;
  const int64_t n = int64_t{blockIdx.x} / p.hidden, m = int64_t{blockIdx.x} % p.hidden;
  const int64_t columns = quarter_size(p.width);
  Acc sums[kSums] = {};
  for (int64_t i = threadIdx.x; i < p.num_tiles * num_positions(p); i += kThreads) {
    const int64_t tile = i / num_positions(p), position = i % num_positions(p);
    const Acc grad = masked[(tile * p.tokens + n) * num_positions(p) + position];
    if (grad == 0) continue;
    const Acc* plane = hidden + (tile * p.hidden + m) * hidden_size(p);
    const int64_t y = 2 * (position / columns) - 1, x = 2 * (position % columns) - 1;
    for (int k = 0; k < kTaps * kTaps; ++k) {
      sums[k] += grad * hidden_value(p, plane, y + k / kTaps, x + k % kTaps);
    }
    sums[kTaps * kTaps] += grad;
  }
  store_sums<T>(sums, conv2_weight + int64_t{blockIdx.x} * kTaps * kTaps,
                m == 0 ? conv2_bias + n : nullptr);
}

// One block for a hidden channel.
template <class T>
__global__ void __launch_bounds__(kThreads)
    conv1_grad_kernel(MaskEncodeParams p,
                      const accumulate_t<T>* hidden_grad,  // [T, M, H1, W1]
                      T* conv1_weight, T* conv1_bias) {
  using Acc = accumulate_t<T>;
  const int64_t m = int64_t{blockIdx.x};
  Acc sums[kSums] = {};
  for (int64_t i = threadIdx.x; i < p.num_tiles * hidden_size(p); i += kThreads) {
    const int64_t tile = i / hidden_size(p), place = i % hidden_size(p);
    const Acc grad = hidden_grad[(tile * p.hidden + m) * hidden_size(p) + place];
    if (grad == 0) continue;
    const int64_t y = 2 * (place / half_size(p.width)) - 1,
                  x = 2 * (place % half_size(p.width)) - 1;
    for (int k = 0; k < kTaps * kTaps; ++k) {
      sums[k] += grad * pixel<Acc>(p, tile, y + k / kTaps, x + k % kTaps);
    }
    sums[kTaps * kTaps] += grad;
  }
  store_sums<T>(sums, conv1_weight + m * kTaps * kTaps, conv1_bias + m);
}

template <class T>
void make_hidden(const MaskEncodeParams& p, accumulate_t<T>* hidden, cudaStream_t stream) {
  const int64_t total = p.num_tiles * p.hidden * hidden_size(p);
  launch("mask_encode", hidden_kernel<T>, one_thread_each(total, kThreads, stream), p, hidden,
         total);
}

template <class T>
void backward(const MaskEncodeParams& p, const T* grad, T* conv1_weight, T* conv1_bias,
              T* conv2_weight, T* conv2_bias, accumulate_t<T>* workspace, cudaStream_t stream) {
  using Acc = accumulate_t<T>;
  const char* op = "mask_encode_backward";
  const int64_t hidden_total = p.num_tiles * p.hidden * hidden_size(p);
  const int64_t total = p.num_tiles * p.tokens * num_positions(p);
  Acc* hidden = workspace;                   // [T, M, H1, W1]
  Acc* hidden_grad = hidden + hidden_total;  // [T, M, H1, W1]
  Acc* masked = hidden_grad + hidden_total;  // [T, N, P]
  if (p.num_tiles > 0) {                     // without tiles the sums below are the zeros to store
    make_hidden<T>(p, hidden, stream);
    launch(op, masked_grad_kernel<T>, one_thread_each(total, kThreads, stream), p, hidden, grad,
           masked, total);
    launch(op, hidden_grad_kernel<T>, one_thread_each(hidden_total, kThreads, stream), p, hidden,
           masked, hidden_grad, hidden_total);
  }
  const auto blocks_of_sums = [&](int64_t blocks) -> LaunchShape {
    return {.blocks = blocks,
            .threads = kThreads,
            .shared_bytes = int64_t{sizeof(TapSums<Acc>)},
            .stream = stream};
  };
  launch(op, conv1_grad_kernel<T>, blocks_of_sums(p.hidden), p, hidden_grad, conv1_weight,
         conv1_bias);
  launch(op, conv2_grad_kernel<T>, blocks_of_sums(p.tokens * p.hidden), p, hidden, masked,
         conv2_weight, conv2_bias);
}

}  // namespace

int64_t mask_features_workspace(const MaskEncodeParams& p, int64_t copies) {
  const int64_t hidden = copies * p.num_tiles * p.hidden * hidden_size(p);
  const int64_t masked = copies > 1 ? p.num_tiles * p.tokens * num_positions(p) : 0;
  return (hidden + masked) * (p.dtype == DType::kFloat64 ? 8 : 4);
}

void mask_features(const MaskEncodeParams& p, void* features, void* workspace,
                   cudaStream_t stream) {
  const int64_t total = p.num_tiles * p.tokens * num_positions(p);
  if (total == 0) return;  // an empty grid is a launch error
  dispatch_float<__half, __nv_bfloat16>(p.dtype, "mask_encode", [&](auto tag) {
    using T = typename decltype(tag)::type;
    auto* hidden = static_cast<accumulate_t<T>*>(workspace);
    make_hidden<T>(p, hidden, stream);
    launch("mask_encode", features_kernel<T>, one_thread_each(total, kThreads, stream), p, hidden,
           static_cast<T*>(features), total);
  });
}

void mask_features_backward(const MaskEncodeParams& p, const void* grad, void* conv1_weight,
                            void* conv1_bias, void* conv2_weight, void* conv2_bias, void* workspace,
                            cudaStream_t stream) {
  dispatch_float<__half, __nv_bfloat16>(p.dtype, "mask_encode_backward", [&](auto tag) {
    using T = typename decltype(tag)::type;
    backward<T>(p, static_cast<const T*>(grad), static_cast<T*>(conv1_weight),
                static_cast<T*>(conv1_bias), static_cast<T*>(conv2_weight),
                static_cast<T*>(conv2_bias), static_cast<accumulate_t<T>*>(workspace), stream);
  });
}

}  // namespace fastregion::cuda
