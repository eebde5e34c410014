#include "core/device.h"

namespace fastregion {
namespace {

std::string describe(const Extent& extent) {
  return concat("(", extent.x, ", ", extent.y, ", ", extent.z, ")");
}

}  // namespace

void check_launch_shape(const char* op, const LaunchShape& shape) {
  const auto& [blocks, threads, shared_bytes, stream] = shape;
  const bool grid_fits = blocks.x >= 1 && blocks.x <= kMaxGridX && blocks.y >= 1 &&
                         blocks.y <= kMaxGridYZ && blocks.z >= 1 && blocks.z <= kMaxGridYZ;
  check(grid_fits, op, ": the grid must be within (", kMaxGridX, ", ", kMaxGridYZ, ", ", kMaxGridYZ,
        ") and not empty, got ", describe(blocks));
  const bool block_fits = threads.x >= 1 && threads.y >= 1 && threads.z >= 1 &&
                          threads.x * threads.y * threads.z <= kMaxThreadsPerBlock;
  check(block_fits, op, ": a block must have 1 to ", kMaxThreadsPerBlock, " threads, got ",
        describe(threads));
  check(shared_bytes >= 0, op, ": shared_bytes must not be negative, got ", shared_bytes);
}

#ifndef FASTREGION_SIMT

void check_launched(const char* op, const LaunchShape& shape, cudaError_t status) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(concat(op, ": CUDA error ", cudaGetErrorName(status), " (",
                                  cudaGetErrorString(status), ") launching grid ",
                                  describe(shape.blocks), ", block ", describe(shape.threads), ", ",
                                  shape.shared_bytes, " bytes of shared memory"));
}

void check_cuda(const char* op, cudaError_t status) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(
      concat(op, ": CUDA error ", cudaGetErrorName(status), " (", cudaGetErrorString(status), ")"));
}

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // forget the failure: later launches must not report it
  return 0;
}

std::string device_obstacle() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) return count > 0 ? "" : "the driver finds no device";
  cudaGetLastError();
  return concat(cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
}

DeviceGuard::DeviceGuard(int device) {
  check_cuda("device", cudaGetDevice(&previous_));
  if (device != previous_) check_cuda("device", cudaSetDevice(device));
}

DeviceGuard::~DeviceGuard() { cudaSetDevice(previous_); }

#else  // the host stands for one device, which never fails and is always current

int device_count() { return 0; }
std::string device_obstacle() { return "this build runs the kernels on the host, for tests"; }
DeviceGuard::DeviceGuard(int device) : previous_(device) {}
DeviceGuard::~DeviceGuard() = default;

#endif  // FASTREGION_SIMT

}  // namespace fastregion
