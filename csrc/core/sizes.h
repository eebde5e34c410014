// Sizes divided into parts.
#pragma once

namespace fastregion {

template <class T>
constexpr T ceil_div(T count, T size) {
  return (count + size - 1) / size;
}

// The smallest multiple of `size` that is not below `count`.
template <class T>
constexpr T round_up(T count, T size) {
  return ceil_div(count, size) * size;
}

}  // namespace fastregion
