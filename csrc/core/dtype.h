// Element types that cross the border from Python, and the visible switch over them.
//
// The codes are part of the binding: fastregion/ops passes them as integers.
// half and bfloat16 are storage types: they are converted to float to compute, and rounded to
// nearest even once on store.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "core/error.h"

namespace fastregion {

enum class DType : int {
  kFloat32 = 0,
  kFloat16 = 1,
  kBFloat16 = 2,
  kFloat64 = 3,
  kUInt8 = 4,  // bool too: one byte, 0 or 1
  kInt32 = 5,
  kInt64 = 6,
};

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// Exact: every half is a float. Magic-number form of the conversion, without branches on the common
// path, so that loops over it vectorise: shift exponent and mantissa into place, rescale by 2^112.
inline float to_float(Half value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t magnitude = uint32_t{value.bits & 0x7fffu} << 13;
  const uint32_t scaled = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  // Exponent 31 (infinity, NaN) keeps its mantissa and gets the largest float exponent.
  const uint32_t result = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : scaled;
  return std::bit_cast<float>(sign | result);
}

inline float to_float(BFloat16 value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }

// constexpr, so that device code may call them too.
constexpr float to_float(float value) { return value; }
constexpr double to_float(double value) { return value; }

// The type that sums of T are kept in.
template <class T>
using accumulate_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
T from_float(accumulate_t<T> value);

template <>
constexpr float from_float<float>(float value) {
  return value;
}

template <>
constexpr double from_float<double>(double value) {
  return value;
}

template <>
inline BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return {static_cast<uint16_t>(bits >> 16 | 0x40u)};  // NaN
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
inline Half from_float<Half>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t result;
  if (magnitude > 0x7f800000u) {
    result = 0x7e00u;  // NaN
  } else if (magnitude >= 0x477ff000u) {
    result = 0x7c00u;  // 65520 and above round to infinity
  } else if (magnitude < 0x38800000u) {
    // Subnormal half: adding 0.5 lines the last half bit up with the last float bit, so that the
    // float addition itself rounds to nearest even.
    result = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    result = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return {static_cast<uint16_t>(sign | result)};
}

template <class T>
struct TypeTag {
  using type = T;
};

// Calls body(TypeTag<T>{}) with the C++ type of a floating-point dtype. Half and bfloat16 may be
// given as other types (the device's own) by the caller in device code.
template <class HalfType = Half, class BFloat16Type = BFloat16, class Body>
decltype(auto) dispatch_float(DType dtype, const char* op, Body&& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(TypeTag<float>{});
    case DType::kFloat16:
      return body(TypeTag<HalfType>{});
    case DType::kBFloat16:
      return body(TypeTag<BFloat16Type>{});
    case DType::kFloat64:
      return body(TypeTag<double>{});
    default:
      throw std::invalid_argument(concat(op,
                                         ": dtype must be float32, float16, bfloat16 or float64,"
                                         " got code ",
                                         static_cast<int>(dtype)));
  }
}

}  // namespace fastregion
