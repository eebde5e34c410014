// Loads and stores of several elements at a time, for kernels that move rows.
#pragma once

#include <initializer_list>

#include "core/device.h"

namespace fastregion {

inline constexpr int kVectorBytes = 16;  // the widest load of a thread

// Elements of T in the widest load.
template <class T>
inline constexpr int kVectorLength = kVectorBytes / int{sizeof(T)};

template <class T, int kVector>
struct alignas(sizeof(T) * kVector) Pack {
  T values[kVector];
};

// Whether rows of T can be moved by the widest loads: lengths and strides, in elements, and
// addresses (of which some may be null) are multiples of one.
template <class T>
bool vectorizable(std::initializer_list<int64_t> extents,
                  std::initializer_list<const void*> addresses) {
  for (const int64_t extent : extents) {
    if (extent % kVectorLength<T> != 0) return false;
  }
  for (const void* address : addresses) {
    if (reinterpret_cast<uintptr_t>(address) % kVectorBytes != 0) return false;
  }
  return true;
}

}  // namespace fastregion
