// CUDA side of gated_norm; the equations are in the header.
//
// A block works on one row at a time: a thread holds kValues channels of it in registers, as
// 16-byte vectors lying a block's width of vectors apart, so that neighbouring lanes read
// neighbouring vectors. The two statistics are two sums over the block, the second one over
// deviations from the mean, which no large mean can spoil.
//
// Forward: one block a row. Traffic: x and branch read, y and normed written, once each.
//
// Backward: a block walks the rows of one of gated_norm_blocks(R) parts and keeps its channels'
// sums of the three parameters' gradients in registers; it writes them to the workspace once.
// Traffic: y, branch and the two gradients read, two gradients written. reduce_kernel then adds the
// parts of every channel in a fixed order. No atomics.
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "attention/gated_norm.h"
#include "core/device.h"

namespace fastregion::cuda {
namespace {

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr int kVectorBytes = 16;  // the widest load
constexpr int kValues = 8;        // of a row in one thread; the 6 copies stay in registers
constexpr int kMaxThreads = 512;  // 128 registers each
constexpr int kMaxWarps = kMaxThreads / kWarp;
constexpr int kParameters = 3;   // gate, weight, bias
constexpr int kReduceWarps = 8;  // share the parts of 32 channels
static_assert(kGatedNormMaxChannels == kValues * kMaxThreads);

// Parameters wider than the rows take two loads.
template <class T, int kVector>
struct alignas(std::min<std::size_t>(sizeof(T) * kVector, kVectorBytes)) Pack {
  T values[kVector];
};

// Sums over a block that follow each other use the slots in turn: who writes a slot again has
// passed the barrier of the next sum, and so has everybody who read it.
template <class Acc>
struct SumShared {
  Acc slots[3][2][kMaxWarps];
};

// The sums over the block of a and of b, to all threads, in a fixed order.
template <class Acc>
__device__ void block_sum(SumShared<Acc>& shared, int slot, Acc& a, Acc& b) {
  const int tid = static_cast<int>(threadIdx.x);
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    a += __shfl_xor_sync(kAllLanes, a, distance);
    b += __shfl_xor_sync(kAllLanes, b, distance);
  }
  if (tid % kWarp == 0) {
    shared.slots[slot][0][tid / kWarp] = a;
    shared.slots[slot][1][tid / kWarp] = b;
  }
  __syncthreads();
  a = b = 0;
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
    a += shared.slots[slot][0][warp];
    b += shared.slots[slot][1][warp];
  }
}

// What one thread holds of a row.
template <class Acc>
struct Values {
  Acc values[kValues];
};

// The channels of a thread: vector i of them begins at channel(i).
template <int kVector>
struct Channels {
  static constexpr int kVectors = kValues / kVector;
  int64_t count;

  __device__ int64_t channel(int i) const {
    return (int64_t{i} * blockDim.x + threadIdx.x) * kVector;
  }
  __device__ bool has(int i) const { return channel(i) < count; }

  // values[i * kVector + v] = row[channel(i) + v], or `missing` after the end or without a row.
  template <class Acc, class T>
  __device__ void load(const T* row, Acc missing, Values<Acc>& to) const {
    for (int i = 0; i < kVectors; ++i) {
      Pack<T, kVector> pack;
      const bool there = row != nullptr && has(i);
      if (there) pack = *reinterpret_cast<const Pack<T, kVector>*>(row + channel(i));
      for (int v = 0; v < kVector; ++v) {
        to.values[i * kVector + v] = there ? Acc{to_float(pack.values[v])} : missing;
      }
    }
  }

  // Rounds the values to what is stored.
  template <class T, class Acc>
  __device__ void store(T* row, Values<Acc>& from) const {
    for (int i = 0; i < kVectors; ++i) {
      if (!has(i)) continue;
      Pack<T, kVector> pack;
      for (int v = 0; v < kVector; ++v) {
        pack.values[v] = from_float<T>(from.values[i * kVector + v]);
        from.values[i * kVector + v] = to_float(pack.values[v]);
      }
      *reinterpret_cast<Pack<T, kVector>*>(row + channel(i)) = pack;
    }
  }
};

// A gate for all channels is read by all threads; others are read as vectors.
template <class P, class Acc, int kVector>
__device__ void load_gate(const GatedNormParams& p, const Channels<kVector>& channels,
                          Values<Acc>& gate) {
  const P* from = static_cast<const P*>(p.gate);
  if (p.gate_per_channel) {
    channels.load(from, Acc{0}, gate);
  } else {
    for (int k = 0; k < kValues; ++k) gate.values[k] = to_float(from[0]);
  }
}

// Replaces y by n, all but its scale 1 / sqrt(var + eps), which is returned. Channels after the
// end come in as 0 and stay so.
template <class Acc, int kVector>
__device__ Acc normalize(SumShared<Acc>& shared, const Channels<kVector>& channels, double eps,
                         Values<Acc>& y) {
  Acc sum = 0, squares = 0, unused = 0;
  for (int k = 0; k < kValues; ++k) sum += y.values[k];
  block_sum(shared, 0, sum, unused);
  const Acc mean = sum / static_cast<Acc>(channels.count);
  for (int k = 0; k < kValues; ++k) {
    if (channels.has(k / kVector)) y.values[k] -= mean;
    squares += y.values[k] * y.values[k];
  }
  block_sum(shared, 1, squares, unused);
  return 1 / std::sqrt(squares / static_cast<Acc>(channels.count) + static_cast<Acc>(eps));
}

template <class T, class P, int kVector>
__global__ void __launch_bounds__(kMaxThreads)
    gated_norm_kernel(GatedNormParams p, GatedNormForward rows) {
  using Acc = accumulate_t<T>;
  auto& shared = shared_memory<SumShared<Acc>>();
  const Channels<kVector> channels{p.channels};
  const int64_t r = blockIdx.x;

  Values<Acc> y, branch, parameter;
  channels.load(static_cast<const T*>(rows.x.data) + r * rows.x.stride, Acc{0}, y);
  channels.load(static_cast<const T*>(rows.branch.data) + r * rows.branch.stride, Acc{0}, branch);
  load_gate<P>(p, channels, parameter);
  for (int k = 0; k < kValues; ++k) y.values[k] += parameter.values[k] * branch.values[k];
  channels.store(static_cast<T*>(rows.y) + r * p.channels, y);

  const Acc scale = normalize(shared, channels, p.eps, y);
  channels.load(static_cast<const P*>(p.weight), Acc{1}, parameter);
  for (int k = 0; k < kValues; ++k) y.values[k] *= scale * parameter.values[k];
  channels.load(static_cast<const P*>(p.bias), Acc{0}, parameter);
  for (int k = 0; k < kValues; ++k) y.values[k] += parameter.values[k];
  channels.store(static_cast<T*>(rows.normed) + r * p.channels, y);
}

template <class T, class P, int kVector>
__global__ void __launch_bounds__(kMaxThreads)
    gated_norm_backward_kernel(GatedNormParams p, GatedNormBackward rows, void* workspace) {
  using Acc = accumulate_t<T>;
  auto& shared = shared_memory<SumShared<Acc>>();
  const Channels<kVector> channels{p.channels};
  const int64_t block = blockIdx.x, blocks = gridDim.x;

  Values<Acc> gate_sum = {}, weight_sum = {}, bias_sum = {};
  for (int64_t r = p.num_rows * block / blocks; r < p.num_rows * (block + 1) / blocks; ++r) {
    Values<Acc> n, grad, other;
    channels.load(static_cast<const T*>(rows.y.data) + r * rows.y.stride, Acc{0}, n);
    channels.load(static_cast<const T*>(rows.grad_normed.data) + r * rows.grad_normed.stride,
                  Acc{0}, grad);
    const Acc scale = normalize(shared, channels, p.eps, n);
    channels.load(static_cast<const P*>(p.weight), Acc{1}, other);
    Acc sum = 0, product = 0;  // of dn and of dn * n
    for (int k = 0; k < kValues; ++k) {
      n.values[k] *= scale;
      weight_sum.values[k] += grad.values[k] * n.values[k];
      bias_sum.values[k] += grad.values[k];
      grad.values[k] *= other.values[k];
      sum += grad.values[k];
      product += grad.values[k] * n.values[k];
    }
    block_sum(shared, 2, sum, product);
    sum /= static_cast<Acc>(p.channels);
    product /= static_cast<Acc>(p.channels);
    channels.load(static_cast<const T*>(rows.grad_y.data) + r * rows.grad_y.stride, Acc{0}, other);
    for (int k = 0; k < kValues; ++k) {
      grad.values[k] = other.values[k] + (grad.values[k] - sum - n.values[k] * product) * scale;
    }
    channels.load(static_cast<const T*>(rows.branch.data) + r * rows.branch.stride, Acc{0}, other);
    for (int k = 0; k < kValues; ++k) gate_sum.values[k] += grad.values[k] * other.values[k];
    load_gate<P>(p, channels, other);
    for (int k = 0; k < kValues; ++k) other.values[k] *= grad.values[k];
    channels.store(static_cast<T*>(rows.grad_x) + r * p.channels, grad);
    channels.store(static_cast<T*>(rows.grad_branch) + r * p.channels, other);
  }

  Acc* parts = static_cast<Acc*>(workspace) + block * kParameters * p.channels;  // [3, C]
  channels.store(parts + p.channels, weight_sum);
  channels.store(parts + 2 * p.channels, bias_sum);
  if (p.gate_per_channel) {
    channels.store(parts, gate_sum);
  } else {
    Acc sum = 0, unused = 0;
    for (int k = 0; k < kValues; ++k) sum += gate_sum.values[k];
    block_sum(shared, 0, sum, unused);
    if (threadIdx.x == 0) parts[0] = sum;
  }
}

template <class Acc>
struct ReduceShared {
  Acc sums[kReduceWarps][kWarp];
};

// One block sums the parts of 32 channels of one parameter; lanes are channels, warp w takes the
// parts w, w + kReduceWarps, ...
template <class P, class Acc>
__global__ void __launch_bounds__(kReduceWarps* kWarp)
    reduce_kernel(GatedNormParams p, GatedNormBackward rows, const Acc* parts, int64_t blocks) {
  auto& shared = shared_memory<ReduceShared<Acc>>();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int which = static_cast<int>(blockIdx.y);
  const int64_t c = int64_t{blockIdx.x} * kWarp + lane;
  void* out = which == 0 ? rows.grad_gate : which == 1 ? rows.grad_weight : rows.grad_bias;
  const int64_t count = which == 0 && !p.gate_per_channel ? 1 : p.channels;
  Acc sum = 0;
  if (out != nullptr && c < count) {
    for (int64_t b = warp; b < blocks; b += kReduceWarps) {
      sum += parts[(b * kParameters + which) * p.channels + c];
    }
  }
  shared.sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || out == nullptr || c >= count) return;  // no barrier below
  for (int w = 1; w < kReduceWarps; ++w) sum += shared.sums[w][lane];
  static_cast<P*>(out)[c] = from_float<P>(sum);
}

// Warps that hold a row: as few as have room for it.
int64_t threads_of(const GatedNormParams& p, const char* op) {
  check(p.channels <= kGatedNormMaxChannels, op, ": the CUDA kernel takes at most ",
        kGatedNormMaxChannels, " channels, got ", p.channels);
  return ceil_div<int64_t>(p.channels, kValues * kWarp) * kWarp;
}

// Whether everything can be read as whole vectors: length, strides, addresses.
template <class T>
class Vectorizable {
 public:
  explicit Vectorizable(int64_t channels) : yes_(channels % kVector == 0) {}
  Vectorizable& rows(const ConstRows& rows) { return at(rows.data).step(rows.stride); }
  Vectorizable& at(const void* address) {
    yes_ = yes_ && reinterpret_cast<uintptr_t>(address) % kVectorBytes == 0;
    return *this;
  }
  explicit operator bool() const { return yes_; }

 private:
  static constexpr int64_t kVector = kVectorBytes / int64_t{sizeof(T)};
  Vectorizable& step(int64_t stride) {
    yes_ = yes_ && stride % kVector == 0;
    return *this;
  }
  bool yes_;
};

// body(T, P, kVector as an integral constant): the types of rows and parameters.
template <class Body>
void dispatch_rows(const GatedNormParams& p, const char* op, auto&& vectorizable, Body&& body) {
  dispatch_float<__half, __nv_bfloat16>(p.dtype, op, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int kVector = kVectorBytes / int{sizeof(T)};
    const auto with_parameters = [&](auto parameter_tag) {
      if (vectorizable(tag)) {
        body(tag, parameter_tag, std::integral_constant<int, kVector>{});
      } else {
        body(tag, parameter_tag, std::integral_constant<int, 1>{});
      }
    };
    if (p.parameter_dtype == p.dtype) {
      with_parameters(tag);
    } else {
      with_parameters(TypeTag<accumulate_t<T>>{});
    }
  });
}

}  // namespace

void gated_norm(const GatedNormParams& p, const GatedNormForward& rows, cudaStream_t stream) {
  const char* op = "gated_residual_norm";
  if (p.num_rows == 0 || p.channels == 0) return;  // an empty grid is a launch error
  const int64_t threads = threads_of(p, op);
  const auto vectorizable = [&](auto tag) {
    using T = typename decltype(tag)::type;
    return bool{Vectorizable<T>(p.channels)
                    .rows(rows.x)
                    .rows(rows.branch)
                    .at(rows.y)
                    .at(rows.normed)
                    .at(p.gate_per_channel ? p.gate : nullptr)
                    .at(p.weight)
                    .at(p.bias)};
  };
  dispatch_rows(p, op, vectorizable, [&](auto tag, auto parameter_tag, auto vector) {
    using T = typename decltype(tag)::type;
    using P = typename decltype(parameter_tag)::type;
    launch(op, gated_norm_kernel<T, P, decltype(vector)::value>,
           {.blocks = p.num_rows,
            .threads = threads,
            .shared_bytes = sizeof(SumShared<accumulate_t<T>>),
            .stream = stream},
           p, rows);
  });
}

void gated_norm_backward(const GatedNormParams& p, const GatedNormBackward& rows, void* workspace,
                         cudaStream_t stream) {
  const char* op = "gated_residual_norm_backward";
  if (p.channels == 0) return;
  const int64_t threads = threads_of(p, op), blocks = gated_norm_blocks(p.num_rows);
  const auto vectorizable = [&](auto tag) {
    using T = typename decltype(tag)::type;
    return bool{Vectorizable<T>(p.channels)
                    .rows(rows.y)
                    .rows(rows.branch)
                    .rows(rows.grad_y)
                    .rows(rows.grad_normed)
                    .at(rows.grad_x)
                    .at(rows.grad_branch)
                    .at(workspace)
                    .at(p.gate_per_channel ? p.gate : nullptr)
                    .at(p.weight)};
  };
  dispatch_rows(p, op, vectorizable, [&](auto tag, auto parameter_tag, auto vector) {
    using T = typename decltype(tag)::type;
    using P = typename decltype(parameter_tag)::type;
    using Acc = accumulate_t<T>;
    if (blocks > 0) {
      launch(op, gated_norm_backward_kernel<T, P, decltype(vector)::value>,
             {.blocks = blocks,
              .threads = threads,
              .shared_bytes = sizeof(SumShared<Acc>),
              .stream = stream},
             p, rows, workspace);
    }
    launch(op, reduce_kernel<P, Acc>,
           {.blocks = {ceil_div<int64_t>(p.channels, kWarp), kParameters},
            .threads = kReduceWarps * kWarp,
            .shared_bytes = sizeof(ReduceShared<Acc>),
            .stream = stream},
           p, rows, static_cast<const Acc*>(workspace), blocks);
  });
}

}  // namespace fastregion::cuda
