// CUDA side of mask_encode, forward; the equations are in the header.
//
// Nothing is known on the host about the tiles, so every step is launched for the most there can
// be, and what has no work leaves at once:
//
//   flags    one thread a position: do its 7 x 7 pixels differ from empty, from full?
//   lists    one block a tile: chooses the base and lists the positions that differ, in order;
//            for the two bases themselves, tiles T and T + 1 below, the positions at the border
//   values   one warp a listed position: the features there, less the base's
//   sums     weight rows of the listed positions times their values. Position-major weights: lanes
//            are channels, 16 bytes each, lists split in segments to fill the device. Row-major:
//            a warp a channel, lanes are list entries.
//   results  one thread a value: bias + base + segments
//
// Tiles that run together share touched rows of the weight through the L2 cache. No atomics; the
// order of every sum is fixed.
#include "core/device.h"
#include "core/vectors.h"
#include "masks/mask_encode.h"

namespace fastregion::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kValueWarps = 4;  // 18 KiB of shared memory with doubles
constexpr int kTaps = 3;
constexpr int kTokens = 8;  // summed in registers, next to the channels of 16 bytes
constexpr int kBases = 2;
constexpr int64_t kSegments = 32;  // of all lists together: (T + 2) * segments * C / 8 threads
constexpr uint32_t kAllLanes = 0xffffffffu;

struct Workspace {
  void* values;        // Acc [T + 2, P, N]
  void* constants;     // Acc [2, N]: features of a base away from its border
  void* partial;       // Acc [T + 2, segments, N, C]
  void* weight_sums;   // Acc [C]
  int32_t* positions;  // [T + 2, P]
  int32_t* counts;     // [T + 2]
  int32_t* bases;      // [T]
  uint8_t* flags;      // [T, P]
};

int64_t num_segments(const MaskEncodeParams& p, bool position_major) {
  const int64_t lists = p.num_tiles + kBases;
  return position_major && lists < kSegments ? kSegments / lists : 1;
}

// Lays the parts out one after the other, each at a multiple of 16 bytes; returns the total.
int64_t lay_out(const MaskEncodeParams& p, int64_t channels, char* start, Workspace& workspace) {
  const int64_t lists = p.num_tiles + kBases, positions = num_positions(p);
  const int64_t acc = p.dtype == DType::kFloat64 ? 8 : 4;
  const int64_t segments = num_segments(p, true);
  int64_t offset = 0;
  const auto take = [&](auto*& pointer, int64_t bytes) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(start + offset);
    offset += round_up<int64_t>(bytes, 16);
  };
  take(workspace.values, lists * positions * p.tokens * acc);
  take(workspace.constants, kBases * p.tokens * acc);
  take(workspace.partial, lists * segments * p.tokens * channels * acc);
  take(workspace.weight_sums, channels * acc);
  take(workspace.positions, lists * positions * 4);
  take(workspace.counts, lists * 4);
  take(workspace.bases, p.num_tiles * 4);
  take(workspace.flags, p.num_tiles * positions);
  return offset;
}

__global__ void __launch_bounds__(kThreads)
    flags_kernel(MaskEncodeParams p, uint8_t* flags, int64_t total) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t columns = quarter_size(p.width);
  const int64_t position = index % num_positions(p);
  const uint8_t* tile = p.tiles + index / num_positions(p) * p.height * p.width;
  const int64_t y = position / columns * 4, x = position % columns * 4;
  bool empty = true, full = true;
  for (int64_t i = y < 3 ? 0 : y - 3; i <= y + 3 && i < p.height; ++i) {
    for (int64_t j = x < 3 ? 0 : x - 3; j <= x + 3 && j < p.width; ++j) {
      const int pixel = tile[i * p.width + j];
      empty = empty && pixel == 0;
      full = full && pixel == p.full;
    }
  }
  flags[index] = static_cast<uint8_t>((empty ? 0 : 1) | (full ? 0 : 2));
}

struct ListShared {
  int32_t warp_counts[kWarps];
};

__global__ void __launch_bounds__(kThreads) lists_kernel(MaskEncodeParams p, Workspace workspace) {
  auto& shared = shared_memory<ListShared>();
  const int tid = static_cast<int>(threadIdx.x);
  const int lane = tid % kWarp, warp = tid / kWarp;
  const int64_t list = blockIdx.x;
  const bool is_tile = list < p.num_tiles;
  const int64_t positions = num_positions(p);
  const int64_t rows = quarter_size(p.height), columns = quarter_size(p.width);
  const uint8_t* flags = workspace.flags + list * positions;  // of a tile

  int base = 0;
  if (is_tile) {
    int counts[kBases] = {};
    for (int64_t start = 0; start < positions; start += kThreads) {
      const int64_t position = start + tid;
      const int flag = position < positions ? flags[position] : 0;
      counts[0] += __syncthreads_count(flag & 1);
      counts[1] += __syncthreads_count(flag & 2);
    }
    base = counts[1] < counts[0] ? 1 : 0;
    if (tid == 0) workspace.bases[list] = base;
  }

  int32_t* out = workspace.positions + list * positions;
  int32_t written = 0;
  for (int64_t start = 0; start < positions; start += kThreads) {
    const int64_t position = start + tid;
    int listed = 0;
    if (position < positions) {
      const int64_t y = position / columns, x = position % columns;
      const bool border = y == 0 || x == 0 || y == rows - 1 || x == columns - 1;
      listed = is_tile ? flags[position] >> base & 1 : border ? 1 : 0;
    }
    int32_t before = listed;  // inclusive scan over the warp
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const int32_t other = __shfl_up_sync(kAllLanes, before, static_cast<unsigned>(distance));
      if (lane >= distance) before += other;
    }
    if (lane == kWarp - 1) shared.warp_counts[warp] = before;
    __syncthreads();
    int32_t total = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) before += total;
      total += shared.warp_counts[w];
    }
    if (listed != 0) out[written + before - 1] = static_cast<int32_t>(position);
    written += total;
    __syncthreads();  // the counts are overwritten in the next round
  }
  if (tid == 0) workspace.counts[list] = written;
}

// What a pixel or a value of h is taken from: a tile, a tile of one value, or a plane of one value
// that has no border.
enum class Picture { kTile, kConstant, kUnbounded };

template <class Acc>
struct Source {
  Picture picture;
  const uint8_t* tile;  // of kTile
  Acc value;            // of the others, scaled
};

// Value of h[m] at (y, x).
template <class T>
__device__ accumulate_t<T> hidden_at(const MaskEncodeParams& p,
                                     const Source<accumulate_t<T>>& source, int64_t m, int64_t y,
                                     int64_t x) {
  using Acc = accumulate_t<T>;
  const bool bounded = source.picture != Picture::kUnbounded;
  if (bounded && (y < 0 || x < 0 || y >= half_size(p.height) || x >= half_size(p.width))) return 0;
  const T* weight = static_cast<const T*>(p.conv1_weight) + m * kTaps * kTaps;
  Acc sum = to_float(static_cast<const T*>(p.conv1_bias)[m]);
  for (int k = 0; k < kTaps; ++k) {
    for (int j = 0; j < kTaps; ++j) {
      const int64_t row = 2 * y - 1 + k, column = 2 * x - 1 + j;
      if (bounded && (row < 0 || column < 0 || row >= p.height || column >= p.width)) continue;
      const Acc pixel =
          source.picture == Picture::kTile
              ? static_cast<Acc>(p.scale) * static_cast<Acc>(source.tile[row * p.width + column])
              : source.value;
      sum += to_float(weight[k * kTaps + j]) * pixel;
    }
  }
  return sum < 0 ? Acc{0} : sum;  // NaN stays
}

template <class Acc>
struct ValueShared {
  Acc hidden[kValueWarps][2][kLargestHidden * kTaps * kTaps];  // of the picture and of its base
};

template <class T>
__global__ void __launch_bounds__(kValueWarps* kWarp)
    values_kernel(MaskEncodeParams p, Workspace workspace) {
  using Acc = accumulate_t<T>;
  auto& shared = shared_memory<ValueShared<Acc>>();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t list = blockIdx.y;
  const int64_t entry = int64_t{blockIdx.x} * kValueWarps + warp;
  if (entry >= workspace.counts[list]) return;  // whole warps leave; no block barrier below
  const bool is_tile = list < p.num_tiles;
  const int64_t base = is_tile ? workspace.bases[list] : list - p.num_tiles;
  const Acc value = base == 0 ? Acc{0} : static_cast<Acc>(p.scale) * static_cast<Acc>(p.full);
  const Source<Acc> sources[] = {
      {is_tile ? Picture::kTile : Picture::kConstant,
       is_tile ? p.tiles + list * p.height * p.width : nullptr, value},
      {is_tile ? Picture::kConstant : Picture::kUnbounded, nullptr, value}};

  const int64_t position = workspace.positions[list * num_positions(p) + entry];
  const int64_t y = position / quarter_size(p.width), x = position % quarter_size(p.width);
  const int64_t num_hidden = p.hidden * kTaps * kTaps;
  for (int which = 0; which < 2; ++which) {
    for (int64_t i = lane; i < num_hidden; i += kWarp) {
      const int64_t tap = i % (kTaps * kTaps);
      shared.hidden[warp][which][i] = hidden_at<T>(
          p, sources[which], i / (kTaps * kTaps), 2 * y - 1 + tap / kTaps, 2 * x - 1 + tap % kTaps);
    }
  }
  __syncwarp();
  Acc* values = static_cast<Acc*>(workspace.values) + (list * num_positions(p) + entry) * p.tokens;
  for (int64_t n = lane; n < p.tokens; n += kWarp) {
    const T* weight = static_cast<const T*>(p.conv2_weight) + n * num_hidden;
    Acc features[2];
    for (int which = 0; which < 2; ++which) {
      Acc sum = to_float(static_cast<const T*>(p.conv2_bias)[n]);
      for (int64_t i = 0; i < num_hidden; ++i) {
        sum += to_float(weight[i]) * shared.hidden[warp][which][i];
      }
      features[which] = sum < 0 ? Acc{0} : sum;
    }
    values[n] = features[0] - features[1];
    // The border of a base has at least one position.
    if (!is_tile && entry == 0) {
      static_cast<Acc*>(workspace.constants)[base * p.tokens + n] = features[1];
    }
  }
}

// Position-major: one thread for kVector channels of one segment of a list.
template <class T, int kVector>
__global__ void __launch_bounds__(kThreads) sums_kernel(MaskEncodeParams p, MaskLinearParams linear,
                                                        Workspace workspace, int64_t num_vectors) {
  using Acc = accumulate_t<T>;
  const int64_t vector = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (vector >= num_vectors) return;  // no barrier below
  const int64_t channel = vector * kVector;
  const int64_t segment = blockIdx.y, segments = gridDim.y, list = blockIdx.z;
  const int64_t count = workspace.counts[list];
  const int64_t begin = count * segment / segments, end = count * (segment + 1) / segments;
  const int32_t* positions = workspace.positions + list * num_positions(p);
  const Acc* values =
      static_cast<const Acc*>(workspace.values) + list * num_positions(p) * p.tokens;
  const T* weight = static_cast<const T*>(linear.weight) + channel;
  for (int64_t first = 0; first < p.tokens; first += kTokens) {
    Acc sums[kTokens][kVector] = {};
    for (int64_t entry = begin; entry < end; ++entry) {
      const auto pack = *reinterpret_cast<const Pack<T, kVector>*>(
          weight + positions[entry] * linear.position_stride);
      const Acc* value = values + entry * p.tokens + first;
      for (int n = 0; n < kTokens; ++n) {
        const Acc factor = first + n < p.tokens ? value[n] : Acc{0};
        for (int v = 0; v < kVector; ++v) sums[n][v] += factor * to_float(pack.values[v]);
      }
    }
    for (int n = 0; n < kTokens && first + n < p.tokens; ++n) {
      Acc* out = static_cast<Acc*>(workspace.partial) +
                 ((list * segments + segment) * p.tokens + first + n) * linear.channels + channel;
      for (int v = 0; v < kVector; ++v) out[v] = sums[n][v];
    }
  }
}

template <class Acc>
__device__ Acc warp_sum(Acc value) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, lanes);
  }
  return value;
}

// Any strides: one warp for a channel of a list, lanes are entries.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sums_by_channel_kernel(MaskEncodeParams p, MaskLinearParams linear, Workspace workspace) {
  using Acc = accumulate_t<T>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t channel = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (channel >= linear.channels) return;  // whole warps leave; no block barrier below
  const int64_t list = blockIdx.y;
  const int64_t count = workspace.counts[list];
  const int32_t* positions = workspace.positions + list * num_positions(p);
  const Acc* values =
      static_cast<const Acc*>(workspace.values) + list * num_positions(p) * p.tokens;
  const T* weight = static_cast<const T*>(linear.weight) + channel * linear.channel_stride;
  for (int64_t first = 0; first < p.tokens; first += kTokens) {
    Acc sums[kTokens] = {};
    for (int64_t entry = lane; entry < count; entry += kWarp) {
      const Acc factor = to_float(weight[positions[entry] * linear.position_stride]);
      const Acc* value = values + entry * p.tokens + first;
      for (int n = 0; n < kTokens && first + n < p.tokens; ++n) sums[n] += factor * value[n];
    }
    for (int n = 0; n < kTokens && first + n < p.tokens; ++n) {
      const Acc sum = warp_sum(sums[n]);
      if (lane == 0) {
        static_cast<Acc*>(
            workspace.partial)[(list * p.tokens + first + n) * linear.channels + channel] = sum;
      }
    }
  }
}

template <class Acc>
struct WeightSumShared {
  Acc sums[kWarps][kWarp];
};

// weight_sums [C], where the caller has none. Position-major: lanes are channels, warps take every
// kWarps-th position. Otherwise a warp takes a channel, lanes are positions.
template <class T>
__global__ void __launch_bounds__(kThreads)
    weight_sums_kernel(MaskLinearParams linear, int64_t positions, accumulate_t<T>* weight_sums) {
  using Acc = accumulate_t<T>;
  auto& shared = shared_memory<WeightSumShared<Acc>>();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const T* weight = static_cast<const T*>(linear.weight);
  if (linear.channel_stride == 1) {
    const int64_t channel = int64_t{blockIdx.x} * kWarp + lane;
    Acc sum = 0;
    if (channel < linear.channels) {
      for (int64_t i = warp; i < positions; i += kWarps) {
        sum += to_float(weight[i * linear.position_stride + channel]);
      }
    }
    shared.sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || channel >= linear.channels) return;  // no barrier below
    for (int w = 1; w < kWarps; ++w) sum += shared.sums[w][lane];
    weight_sums[channel] = sum;
    return;
  }
  for (int64_t i = warp; i < kWarp; i += kWarps) {
    const int64_t channel = int64_t{blockIdx.x} * kWarp + i;
    if (channel >= linear.channels) return;  // whole warps leave; no barrier below
    Acc sum = 0;
    for (int64_t k = lane; k < positions; k += kWarp) {
      sum += to_float(weight[channel * linear.channel_stride + k * linear.position_stride]);
    }
    sum = warp_sum(sum);
    if (lane == 0) weight_sums[channel] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    results_kernel(MaskEncodeParams p, MaskLinearParams linear, Workspace workspace,
                   const accumulate_t<T>* weight_sums, int64_t segments, int64_t total) {
  using Acc = accumulate_t<T>;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= total) return;  // no barrier below
  const int64_t channel = index % linear.channels;
  const int64_t n = index / linear.channels % p.tokens;
  const int64_t tile = index / linear.channels / p.tokens;
  const int64_t base = workspace.bases[tile];
  const Acc constant = static_cast<const Acc*>(workspace.constants)[base * p.tokens + n];
  Acc sum = to_float(static_cast<const T*>(linear.bias)[channel]) + constant * weight_sums[channel];
  for (const int64_t list : {p.num_tiles + base, tile}) {
    for (int64_t segment = 0; segment < segments; ++segment) {
      sum += static_cast<const Acc*>(
          workspace
              .partial)[((list * segments + segment) * p.tokens + n) * linear.channels + channel];
    }
  }
  static_cast<T*>(linear.out)[index] = from_float<T>(sum);
}

template <class T>
void sum_lists(const MaskEncodeParams& p, const MaskLinearParams& linear,
               const Workspace& workspace, int64_t segments, cudaStream_t stream) {
  constexpr int kVector = kVectorLength<T>;
  const int64_t lists = p.num_tiles + kBases;
  const auto shape = [&](int64_t num_vectors) -> LaunchShape {
    return {.blocks = {ceil_div<int64_t>(num_vectors, kThreads), segments, lists},
            .threads = kThreads,
            .stream = stream};
  };
  if (linear.channel_stride != 1) {
    launch("mask_encode", sums_by_channel_kernel<T>,
           {.blocks = {ceil_div<int64_t>(linear.channels, kWarps), lists},
            .threads = kThreads,
            .stream = stream},
           p, linear, workspace);
  } else if (vectorizable<T>({linear.channels, linear.position_stride}, {linear.weight})) {
    const int64_t num_vectors = linear.channels / kVector;
    launch("mask_encode", sums_kernel<T, kVector>, shape(num_vectors), p, linear, workspace,
           num_vectors);
  } else {
    launch("mask_encode", sums_kernel<T, 1>, shape(linear.channels), p, linear, workspace,
           linear.channels);
  }
}

template <class T>
void encode(const MaskEncodeParams& p, const MaskLinearParams& linear, const Workspace& workspace,
            cudaStream_t stream) {
  using Acc = accumulate_t<T>;
  const char* op = "mask_encode";
  const int64_t lists = p.num_tiles + kBases, positions = num_positions(p);
  const int64_t segments = num_segments(p, linear.channel_stride == 1);
  launch(op, flags_kernel, one_thread_each(p.num_tiles * positions, kThreads, stream), p,
         workspace.flags, p.num_tiles * positions);
  launch(op, lists_kernel,
         {.blocks = lists,
          .threads = kThreads,
          .shared_bytes = int64_t{sizeof(ListShared)},
          .stream = stream},
         p, workspace);
  launch(op, values_kernel<T>,
         {.blocks = {ceil_div<int64_t>(positions, kValueWarps), lists},
          .threads = kValueWarps * kWarp,
          .shared_bytes = int64_t{sizeof(ValueShared<Acc>)},
          .stream = stream},
         p, workspace);
  sum_lists<T>(p, linear, workspace, segments, stream);
  const Acc* weight_sums = static_cast<const Acc*>(linear.weight_sums);
  if (weight_sums == nullptr) {
    auto* own = static_cast<Acc*>(workspace.weight_sums);
    launch(op, weight_sums_kernel<T>,
           {.blocks = ceil_div<int64_t>(linear.channels, kWarp),
            .threads = kThreads,
            .shared_bytes = int64_t{sizeof(WeightSumShared<Acc>)},
            .stream = stream},
           linear, positions, own);
    weight_sums = own;
  }
  const int64_t total = p.num_tiles * p.tokens * linear.channels;
  launch(op, results_kernel<T>, one_thread_each(total, kThreads, stream), p, linear, workspace,
         weight_sums, segments, total);
}

}  // namespace

int64_t mask_encode_workspace(const MaskEncodeParams& p, int64_t channels) {
  Workspace workspace{};
  return lay_out(p, channels, nullptr, workspace);
}

void mask_encode(const MaskEncodeParams& p, const MaskLinearParams& linear, void* memory,
                 cudaStream_t stream) {
  if (p.num_tiles == 0 || linear.channels == 0) return;  // an empty grid is a launch error
  Workspace workspace{};
  lay_out(p, linear.channels, static_cast<char*>(memory), workspace);
  dispatch_float<__half, __nv_bfloat16>(p.dtype, "mask_encode", [&](auto tag) {
    encode<typename decltype(tag)::type>(p, linear, workspace, stream);
  });
}

}  // namespace fastregion::cuda
