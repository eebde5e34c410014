#include <cmath>
#include <numeric>

#include "core/device.h"
#include "core/mma.h"
#include "simt/faults.h"

namespace fastregion::simt {
namespace {

constexpr int kThreads = 64, kBlocks = 2, kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;

enum class Fault {
  kNone,
  kMissingBarrier,       // reads what another thread may not have written yet
  kReuseWithoutBarrier,  // writes what another thread may not have read yet
  kDivergentBarrier,     // two halves of a block at two barriers
  kEndedThread,          // a thread returns before a barrier
  kHalfWarpAtBarrier,    // half a warp at a barrier, half at a shuffle
  kOwnLaneNotInMask,
  kReadsOutsideMask,
  kDifferentOperations,  // lanes of one mask in two shuffles
  kLostUpdate,           // += of several threads without an atomic
  kOutOfBounds,          // one element beyond the input
  kSharedOutOfBounds,    // one element beyond a member of the shared memory
  kSharedTooSmall,       // launched with less than the kernel uses
  kBlocksCollide,        // every block writes the first sum
  kNotANumberToInt,
  kCopyReadEarly,       // an asynchronous copy, and a wait that lets it run on
  kCopyNotWaitedFor,    // the thread ends before its copy
  kCopyMisaligned,      // to an address that is not a multiple of 16
  kHalfWarpAtMatrices,  // half a warp loads matrices together
  kProductAndMatrices,  // half a warp multiplies, half loads
};

struct Named {
  const char* name;
  Fault fault;
};

constexpr Named kFaults[] = {
    {"none", Fault::kNone},
    {"missing barrier", Fault::kMissingBarrier},
    {"reuse without barrier", Fault::kReuseWithoutBarrier},
    {"divergent barrier", Fault::kDivergentBarrier},
    {"ended thread", Fault::kEndedThread},
    {"half warp at barrier", Fault::kHalfWarpAtBarrier},
    {"own lane not in mask", Fault::kOwnLaneNotInMask},
    {"reads outside mask", Fault::kReadsOutsideMask},
    {"different operations", Fault::kDifferentOperations},
    {"lost update", Fault::kLostUpdate},
    {"out of bounds", Fault::kOutOfBounds},
    {"shared out of bounds", Fault::kSharedOutOfBounds},
    {"shared too small", Fault::kSharedTooSmall},
    {"blocks collide", Fault::kBlocksCollide},
    {"not a number to int", Fault::kNotANumberToInt},
    {"copy read early", Fault::kCopyReadEarly},
    {"copy not waited for", Fault::kCopyNotWaitedFor},
    {"copy misaligned", Fault::kCopyMisaligned},
    {"half warp at matrices", Fault::kHalfWarpAtMatrices},
    {"product and matrices", Fault::kProductAndMatrices},
};

struct Shared {
  float values[kThreads];
  float sums[kThreads / kWarp];
};

// out[b] = sum of in[64 b .. 64 b + 63], and on the way one broken rule.
template <Fault fault>
__global__ void faulty_sum_kernel(const float* in, float* out, int zero) {
  auto& s = shared_memory<Shared>();
  const int tid = static_cast<int>(threadIdx.x);
  const int lane = tid % kWarp;
  const int64_t first = int64_t{blockIdx.x} * kThreads;
  constexpr bool kCopies = fault == Fault::kCopyReadEarly || fault == Fault::kCopyNotWaitedFor ||
                           fault == Fault::kCopyMisaligned;
  if constexpr (kCopies) {
    if (tid < kThreads / 4) {
      cp_async(&s.values[4 * tid + (fault == Fault::kCopyMisaligned)], in + first + 4 * tid, true);
    }
    cp_async_commit();
    if constexpr (fault == Fault::kCopyReadEarly) cp_async_wait<1>();
  } else {
    s.values[tid] = in[first + tid + (fault == Fault::kOutOfBounds)];
  }
  if constexpr (fault == Fault::kEndedThread) {
    if (tid == 5) return;
  }
  if constexpr (fault == Fault::kDivergentBarrier) {
    if (tid < kWarp) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if constexpr (fault == Fault::kHalfWarpAtBarrier) {
    if (lane < kWarp / 2) {
      __syncthreads();
    } else {
      __shfl_xor_sync(kAll, tid, 1);
    }
  } else if constexpr (fault != Fault::kMissingBarrier) {
    __syncthreads();
  }
  float sum = s.values[kThreads - 1 - tid];  // another warp's value
  if constexpr (fault == Fault::kReuseWithoutBarrier) s.values[tid] = 0.0f;
  if constexpr (fault == Fault::kSharedOutOfBounds) sum += s.values[kThreads + zero];
  if constexpr (fault == Fault::kHalfWarpAtMatrices || fault == Fault::kProductAndMatrices) {
    uint32_t registers[4] = {};
    if (lane < kWarp / 2) {
      ldmatrix<4, false>(registers, &s.values[4 * (lane % 16)]);
    } else if constexpr (fault == Fault::kProductAndMatrices) {
      float product[4] = {};
      mma_m16n8k16<__half>(product, registers, 0, 0);
    }
  }
  if constexpr (fault == Fault::kOwnLaneNotInMask) sum = __shfl_sync(0x0000ffffu, sum, 0);
  if constexpr (fault == Fault::kReadsOutsideMask) {
    if (lane < 16) sum = __shfl_sync(0x0000ffffu, sum, 20);
  }
  if constexpr (fault == Fault::kDifferentOperations) {
    sum = lane < 16 ? __shfl_xor_sync(kAll, sum, 1) : __shfl_down_sync(kAll, sum, 1);
  }
  if constexpr (fault == Fault::kNotANumberToInt) {
    sum += static_cast<float>(static_cast<int>(sum / static_cast<float>(zero)) & zero);
  }
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(kAll, sum, distance);
  }
  float* to = out + (fault == Fault::kBlocksCollide ? 0 : blockIdx.x);
  if constexpr (fault == Fault::kLostUpdate) {
    if (tid == 0) *to = 0.0f;
    __syncthreads();
    if (lane == 0) *to += sum;
    return;
  }
  if (lane == 0) s.sums[tid / kWarp] = sum;
  __syncthreads();
  if (tid == 0) *to = s.sums[0] + s.sums[1];
  if constexpr (fault == Fault::kCopyReadEarly) cp_async_wait<0>();
}

template <int index = 0>
void run_named(const std::string& name, const float* in, float* out) {
  if constexpr (index < static_cast<int>(std::size(kFaults))) {
    constexpr Fault kFault = kFaults[index].fault;
    if (name != kFaults[index].name) return run_named<index + 1>(name, in, out);
    const int64_t shared = sizeof(Shared) - (kFault == Fault::kSharedTooSmall);
    launch("faulty_sum", faulty_sum_kernel<kFault>,
           {.blocks = kBlocks, .threads = kThreads, .shared_bytes = shared}, in, out, 0);
  } else {
    fail("run_fault: no fault is named ", name);
  }
}

}  // namespace

std::vector<std::string> fault_names() {
  std::vector<std::string> names;
  for (const auto& [name, fault] : kFaults) names.emplace_back(name);
  return names;
}

std::vector<float> run_fault(const std::string& name) {
  std::vector<float> in(kThreads * kBlocks), out(kBlocks, std::nanf(""));
  std::iota(in.begin(), in.end(), 0.0f);
  run_named(name, in.data(), out.data());
  return out;
}

}  // namespace fastregion::simt
