// CPU side of gated_norm; the equations are in the header, the loops over a row in gated_norm.inc.
//
// Traffic, the minimum: forward x and branch read, y and normed written; gradient four rows read,
// two written. Work is split over rows, the gradient's over blocks of rows; whole vectors of the
// parameters are kept, so that the loops need no case without them.
#include "attention/gated_norm.h"

#include <vector>

#include "core/error.h"
#include "core/huge_pages.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "core/rows.h"

namespace fastregion::cpu {

template <class Acc>
struct RowParameters {
  const Acc *gate, *weight, *bias;
  int64_t channels;
  Acc eps;
};

template <class T>
struct BackwardRow {
  const T *y, *branch, *grad_y, *grad_normed;
  T *grad_x, *grad_branch;
};

template <class Acc>
struct ParameterSums {
  Acc *gate, *weight, *bias;
};

}  // namespace fastregion::cpu

#define FASTREGION_ISA_SOURCE "attention/gated_norm.inc"
#include "core/for_each_isa.h"

namespace fastregion::cpu {
namespace {

// Below this many elements a second thread costs more than it brings.
constexpr int64_t kElementsPerThread = 32 * 1024;
constexpr int64_t kHugePageBytes = 4 * 1024 * 1024;  // results from here on
constexpr int64_t kWidestVector = 16;                // elements
constexpr int kParameters = 3;                       // gate, weight, bias

constexpr int64_t whole_vectors(int64_t channels) {
  return (channels + kWidestVector - 1) / kWidestVector * kWidestVector;
}

template <class Acc>
void widen(DType dtype, const void* from, int64_t step, int64_t channels, Acc* to) {
  dispatch_float(dtype, "gated_residual_norm", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* values = static_cast<const T*>(from);
    for (int64_t c = 0; c < channels; ++c) to[c] = static_cast<Acc>(to_float(values[c * step]));
  });
}

// The parameters as whole vectors of what sums are kept in, 1 and 0 where there are none.
template <class Acc>
class WideParameters {
 public:
  explicit WideParameters(const GatedNormParams& p)
      : pitch_(whole_vectors(p.channels)),
        values_(static_cast<size_t>(kParameters * pitch_)),
        channels_(p.channels),
        eps_(static_cast<Acc>(p.eps)) {
    Acc* values = values_.data();
    widen(p.parameter_dtype, p.gate, p.gate_per_channel ? 1 : 0, p.channels, values);
    if (p.weight != nullptr) {
      widen(p.parameter_dtype, p.weight, 1, p.channels, values + pitch_);
    } else {
      std::fill_n(values + pitch_, p.channels, Acc{1});
    }
    if (p.bias != nullptr) widen(p.parameter_dtype, p.bias, 1, p.channels, values + 2 * pitch_);
  }

  RowParameters<Acc> view() const {
    const Acc* values = values_.data();
    return {values, values + pitch_, values + 2 * pitch_, channels_, eps_};
  }

 private:
  int64_t pitch_;
  std::vector<Acc> values_;
  int64_t channels_;
  Acc eps_;
};

template <class T>
const T* row_of(const ConstRows& rows, int64_t r) {
  return static_cast<const T*>(rows.data) + r * rows.stride;
}

template <class T>
void forward(const GatedNormParams& p, const GatedNormForward& rows, int num_threads) {
  const WideParameters<accumulate_t<T>> parameters(p);
  T* y = static_cast<T*>(rows.y);
  T* normed = static_cast<T*>(rows.normed);
  const int64_t bytes = p.num_rows * p.channels * int64_t{sizeof(T)};
  if (bytes >= kHugePageBytes) {
    advise_huge_pages(y, bytes);
    advise_huge_pages(normed, bytes);
  }
  const int64_t grain = kElementsPerThread / p.channels + 1;
  parallel_for(p.num_rows, grain, num_threads, [&](int64_t begin, int64_t end) {
    const auto row = FASTREGION_SELECT_ISA(gated_norm_row<T>);
    for (int64_t r = begin; r < end; ++r) {
      row(row_of<T>(rows.x, r), row_of<T>(rows.branch, r), parameters.view(), y + r * p.channels,
          normed + r * p.channels);
    }
  });
}

// The gradients of the parameters from the sums [blocks, 3, C].
template <class Acc>
void finish(const GatedNormParams& p, const GatedNormBackward& rows, const Acc* parts) {
  void* const outputs[kParameters] = {rows.grad_gate, rows.grad_weight, rows.grad_bias};
  const int64_t blocks = gated_norm_blocks(p.num_rows);
  std::vector<const Acc*> part(static_cast<size_t>(blocks));
  const std::vector<Acc> ones(part.size(), Acc{1});
  for (int which = 0; which < kParameters; ++which) {
    if (outputs[which] == nullptr) continue;
    for (int64_t b = 0; b < blocks; ++b) {
      part[static_cast<size_t>(b)] = parts + (b * kParameters + which) * p.channels;
    }
    const bool single = which == 0 && !p.gate_per_channel;
    dispatch_float(p.parameter_dtype, "gated_residual_norm_backward", [&](auto tag) {
      using Out = typename decltype(tag)::type;
      if constexpr (std::is_same_v<accumulate_t<Out>, Acc>) {
        weighted_sum(static_cast<Out*>(outputs[which]), nullptr, part.data(), ones.data(), blocks,
                     single ? 1 : p.channels);
      }
    });
  }
}

template <class T>
void backward(const GatedNormParams& p, const GatedNormBackward& rows, void* workspace,
              int num_threads) {
  using Acc = accumulate_t<T>;
  const WideParameters<Acc> parameters(p);
  Acc* parts = static_cast<Acc*>(workspace);
  const int64_t blocks = gated_norm_blocks(p.num_rows), pitch = whole_vectors(p.channels);
  const int64_t bytes = p.num_rows * p.channels * int64_t{sizeof(T)};
  if (bytes >= kHugePageBytes) {
    advise_huge_pages(rows.grad_x, bytes);
    advise_huge_pages(rows.grad_branch, bytes);
  }
  parallel_for(blocks, 1, num_threads, [&](int64_t begin, int64_t end) {
    const auto row = FASTREGION_SELECT_ISA(gated_norm_backward_row<T>);
    std::vector<Acc> sums(static_cast<size_t>(kParameters * pitch));
    for (int64_t b = begin; b < end; ++b) {
      std::fill(sums.begin(), sums.end(), Acc{0});
      for (int64_t r = p.num_rows * b / blocks; r < p.num_rows * (b + 1) / blocks; ++r) {
        const BackwardRow<T> views = {row_of<T>(rows.y, r),
                                      row_of<T>(rows.branch, r),
                                      row_of<T>(rows.grad_y, r),
                                      row_of<T>(rows.grad_normed, r),
                                      static_cast<T*>(rows.grad_x) + r * p.channels,
                                      static_cast<T*>(rows.grad_branch) + r * p.channels};
        row(views, parameters.view(), {sums.data(), sums.data() + pitch, sums.data() + 2 * pitch});
      }
      for (int which = 0; which < kParameters; ++which) {
        std::copy_n(sums.data() + which * pitch, p.channels,
                    parts + (b * kParameters + which) * p.channels);
      }
      if (!p.gate_per_channel) {
        double total = 0;  // terms of both signs cancel to a small rest
        for (int64_t c = 0; c < p.channels; ++c) total += double{sums[static_cast<size_t>(c)]};
        parts[b * kParameters * p.channels] = static_cast<Acc>(total);
      }
    }
  });
  finish(p, rows, parts);
}

}  // namespace

void gated_norm(const GatedNormParams& params, const GatedNormForward& rows, int num_threads) {
  if (params.num_rows == 0 || params.channels == 0) return;
  dispatch_float(params.dtype, "gated_residual_norm", [&](auto tag) {
    forward<typename decltype(tag)::type>(params, rows, num_threads);
  });
}

void gated_norm_backward(const GatedNormParams& params, const GatedNormBackward& rows,
                         void* workspace, int num_threads) {
  dispatch_float(params.dtype, "gated_residual_norm_backward", [&](auto tag) {
    backward<typename decltype(tag)::type>(params, rows, workspace, num_threads);
  });
}

}  // namespace fastregion::cpu
