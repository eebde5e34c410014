// What the bindings share. Tensors cross the border as addresses and sizes; shapes and dtypes are
// checked in Python, where the tensors are, and the caller keeps them alive until the call returns.
// The last arguments of a function say where it runs: a number of threads, or, where its name ends
// in _cuda, a device and the address of a stream. A kernel's workspace is the caller's too.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#ifdef FASTREGION_WITH_CUDA
#include "core/device.h"
#endif

namespace fastregion {

namespace py = pybind11;

using Address = std::uintptr_t;

#ifdef FASTREGION_WITH_CUDA
// A kernel that takes nothing but its parameters, as a function for Python.
template <class Params, void (*function)(const Params&, cudaStream_t)>
void on_device(const Params& params, int device, Address stream) {
  const DeviceGuard guard(device);
  function(params, reinterpret_cast<cudaStream_t>(stream));
}
#endif

}  // namespace fastregion
