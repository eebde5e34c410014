// The device side of the house: what every kernel file includes, and nothing else of CUDA.
//
// Rules for kernels that include this header: a kernel never allocates or synchronises, uses only
// the stream given, takes sizes as int64, loads and stores small floats through to_float /
// from_float, and gets its shared memory as one struct from shared_memory<T>().
#pragma once

#ifdef FASTREGION_SIMT
#include "simt/kernel.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "core/dtype.h"
#include "core/error.h"
#include "core/sizes.h"

namespace fastregion {

// Launch limits of every device since compute capability 3.0.
inline constexpr int64_t kMaxThreadsPerBlock = 1024;
inline constexpr int64_t kMaxGridX = 2147483647;
inline constexpr int64_t kMaxGridYZ = 65535;
// More dynamic shared memory than this must be asked for, kernel by kernel.
inline constexpr int64_t kDefaultSharedBytes = 48 * 1024;

// A grid or block extent from 64-bit sizes. dim3 would narrow them in silence.
struct Extent {
  int64_t x = 1, y = 1, z = 1;
  constexpr Extent(int64_t x_, int64_t y_ = 1, int64_t z_ = 1) : x(x_), y(y_), z(z_) {}
  dim3 to_dim3() const {
    return {static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)};
  }
};

struct LaunchShape {
  Extent blocks;
  Extent threads;
  int64_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

// Number of usable devices; 0 without a driver. Makes no context.
int device_count();

// Why there is no usable device; empty where there is one.
std::string device_obstacle();

// Makes `device` current for a scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = -1;
};

// One thread for each of `total` items, `threads` to a block.
inline LaunchShape one_thread_each(int64_t total, int64_t threads, cudaStream_t stream) {
  return {.blocks = ceil_div(total, threads), .threads = threads, .stream = stream};
}

// Throws std::invalid_argument for a shape that no device can run (an empty grid included).
void check_launch_shape(const char* op, const LaunchShape& shape);

#ifdef FASTREGION_SIMT

// The kernel reads its shared memory as one struct; see simt/kernel.h.
template <class T>
T& shared_memory(const simt::Where& where = simt::Where::current()) {
  return *static_cast<T*>(simt::dynamic_shared_memory(sizeof(T), where));
}

template <class... Parameters, class... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "wrong number of kernel arguments");
  check_launch_shape(op, shape);
  auto call = std::pair{kernel, std::tuple<Parameters...>{static_cast<Parameters>(arguments)...}};
  const auto body = [](void* pointer) {
    const auto& [function, values] = *static_cast<decltype(call)*>(pointer);
    std::apply(function, values);
  };
  simt::run(op,
            {.blocks = shape.blocks.to_dim3(),
             .threads = shape.threads.to_dim3(),
             .shared_bytes = static_cast<std::size_t>(shape.shared_bytes)},
            body, &call);
}

#else  // CUDA

// Throws std::runtime_error with the operator's name and the launch shape unless status is success.
void check_launched(const char* op, const LaunchShape& shape, cudaError_t status);

// Throws std::runtime_error with the name of the operator unless status is success.
void check_cuda(const char* op, cudaError_t status);

__host__ __device__ inline float to_float(__half value) { return __half2float(value); }
__host__ __device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

#ifdef __CUDACC__
template <>
__host__ __device__ inline __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__host__ __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// The dynamic shared memory of the block as one struct: exact size, named members.
template <class T>
__device__ T& shared_memory() {
  extern __shared__ __align__(16) unsigned char fastregion_shared_bytes[];
  return *reinterpret_cast<T*>(fastregion_shared_bytes);
}

// launch("op", kernel<T>, {.blocks = ..., .threads = ..., .stream = stream}, arguments...)
// Arguments are converted to the kernel's parameter types.
template <class... Parameters, class... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "wrong number of kernel arguments");
  check_launch_shape(op, shape);
  if (shape.shared_bytes > kDefaultSharedBytes) {
    check_cuda(op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(shape.shared_bytes)));
  }
  kernel<<<shape.blocks.to_dim3(), shape.threads.to_dim3(),
           static_cast<std::size_t>(shape.shared_bytes), shape.stream>>>(
      static_cast<Parameters>(arguments)...);
  check_launched(op, shape, cudaGetLastError());
}
#endif  // __CUDACC__
#endif  // FASTREGION_SIMT

}  // namespace fastregion
