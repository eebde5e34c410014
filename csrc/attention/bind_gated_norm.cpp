// Binding of gated_residual_norm.
#include "attention/gated_norm.h"
#include "core/bind.h"

namespace fastregion {
namespace {

GatedNormParams params(int dtype, int parameter_dtype, int64_t num_rows, int64_t channels,
                       Address gate, bool gate_per_channel, Address weight, Address bias,
                       double eps) {
  return {.dtype = static_cast<DType>(dtype),
          .parameter_dtype = static_cast<DType>(parameter_dtype),
          .num_rows = num_rows,
          .channels = channels,
          .gate = reinterpret_cast<const void*>(gate),
          .gate_per_channel = gate_per_channel,
          .weight = reinterpret_cast<const void*>(weight),
          .bias = reinterpret_cast<const void*>(bias),
          .eps = eps};
}

ConstRows const_rows(Address data, int64_t stride) {
  return {.data = reinterpret_cast<const void*>(data), .stride = stride};
}

GatedNormForward forward_rows(Address x, int64_t x_stride, Address branch, int64_t branch_stride,
                              Address y, Address normed) {
  return {.x = const_rows(x, x_stride),
          .branch = const_rows(branch, branch_stride),
          .y = reinterpret_cast<void*>(y),
          .normed = reinterpret_cast<void*>(normed)};
}

GatedNormBackward backward_rows(Address y, int64_t y_stride, Address branch, int64_t branch_stride,
                                Address grad_y, int64_t grad_y_stride, Address grad_normed,
                                int64_t grad_normed_stride, Address grad_x, Address grad_branch,
                                Address grad_gate, Address grad_weight, Address grad_bias) {
  return {.y = const_rows(y, y_stride),
          .branch = const_rows(branch, branch_stride),
          .grad_y = const_rows(grad_y, grad_y_stride),
          .grad_normed = const_rows(grad_normed, grad_normed_stride),
          .grad_x = reinterpret_cast<void*>(grad_x),
          .grad_branch = reinterpret_cast<void*>(grad_branch),
          .grad_gate = reinterpret_cast<void*>(grad_gate),
          .grad_weight = reinterpret_cast<void*>(grad_weight),
          .grad_bias = reinterpret_cast<void*>(grad_bias)};
}

void gated_norm_backward(const GatedNormParams& p, const GatedNormBackward& rows, Address workspace,
                         int num_threads) {
  cpu::gated_norm_backward(p, rows, reinterpret_cast<void*>(workspace), num_threads);
}

#ifdef FASTREGION_WITH_CUDA
void gated_norm_cuda(const GatedNormParams& p, const GatedNormForward& rows, int device,
                     Address stream) {
  const DeviceGuard guard(device);
  cuda::gated_norm(p, rows, reinterpret_cast<cudaStream_t>(stream));
}

void gated_norm_backward_cuda(const GatedNormParams& p, const GatedNormBackward& rows,
                              Address workspace, int device, Address stream) {
  const DeviceGuard guard(device);
  cuda::gated_norm_backward(p, rows, reinterpret_cast<void*>(workspace),
                            reinterpret_cast<cudaStream_t>(stream));
}
#endif

}  // namespace

void bind_gated_norm(py::module_& module) {
  // Positional arguments: keywords would cost more than a small operator.
  py::class_<GatedNormParams>(module, "GatedNormParams").def(py::init(&params));
  py::class_<GatedNormForward>(module, "GatedNormForward").def(py::init(&forward_rows));
  py::class_<GatedNormBackward>(module, "GatedNormBackward").def(py::init(&backward_rows));
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("gated_norm_workspace_bytes", &gated_norm_workspace_bytes);
  module.def("gated_norm", &cpu::gated_norm, release);
  module.def("gated_norm_backward", &gated_norm_backward, release);
#ifdef FASTREGION_WITH_CUDA
  module.def("gated_norm_cuda", &gated_norm_cuda, release);
  module.def("gated_norm_backward_cuda", &gated_norm_backward_cuda, release);
#endif
}

}  // namespace fastregion
