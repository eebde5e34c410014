// Compiled without -fsanitize=thread, like runtime.cpp: the last lane of a warp works on what the
// others have left on their stacks.
#include "simt/matrix.h"

namespace fastregion::simt {
namespace {

constexpr int kWarp = 32;
constexpr int kRows = 16, kColumns = 8, kDepth = 16;

struct ProductLane {
  const uint32_t* a;
  uint32_t b[2];
  float* c;
};

template <class T>
float half_of(uint32_t pair, int which) {
  return to_float(T{static_cast<uint16_t>(pair >> 16 * which)});
}

template <class T>
void multiply_tiles(void* const* lanes) {
  float a[kRows][kDepth], b[kDepth][kColumns];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& from = *static_cast<const ProductLane*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int which = 0; which < 2; ++which) {
      for (int part = 0; part < 4; ++part) {
        a[g + part % 2 * 8][2 * t + part / 2 * 8 + which] = half_of<T>(from.a[part], which);
      }
      for (int part = 0; part < 2; ++part) {
        b[2 * t + part * 8 + which][g] = half_of<T>(from.b[part], which);
      }
    }
  }
  float c[kRows][kColumns] = {};
  for (int i = 0; i < kRows; ++i) {
    for (int k = 0; k < kDepth; ++k) {
      for (int j = 0; j < kColumns; ++j) c[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    float* to = static_cast<const ProductLane*>(lanes[lane])->c;
    for (int part = 0; part < 4; ++part) {
      to[part] += c[lane / 4 + part / 2 * 8][lane % 4 * 2 + part % 2];
    }
  }
}

struct ExchangeLane {
  MatrixRow row;
  uint32_t* registers;
  int count;
  bool transposed;
};

void exchange(void* const* lanes) {
  const auto at = [&](int lane) -> const ExchangeLane& {
    return *static_cast<const ExchangeLane*>(lanes[lane]);
  };
  for (int lane = 0; lane < kWarp; ++lane) {
    const ExchangeLane& self = at(lane);
    const int g = lane / 4, t = lane % 4;
    for (int q = 0; q < self.count; ++q) {
      const auto element = [&](int row, int column) -> uint32_t {
        return at(8 * q + row).row.values[column];
      };
      self.registers[q] = self.transposed ? element(2 * t, g) | element(2 * t + 1, g) << 16
                                          : element(g, 2 * t) | element(g, 2 * t + 1) << 16;
    }
  }
}

}  // namespace

template <class T>
void multiply_matrices(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                       const Where& where) {
  ProductLane lane{a, {b0, b1}, c};
  matrix_operation(WarpOperation::kMultiply, &multiply_tiles<T>, &lane, where);
}
template void multiply_matrices<Half>(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t,
                                      const Where&);
template void multiply_matrices<BFloat16>(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t,
                                          const Where&);

void exchange_matrices(uint32_t* registers, int count, bool transposed, const MatrixRow& row,
                       const Where& where) {
  ExchangeLane lane{row, registers, count, transposed};
  matrix_operation(WarpOperation::kLoadMatrices, &exchange, &lane, where);
}

}  // namespace fastregion::simt
