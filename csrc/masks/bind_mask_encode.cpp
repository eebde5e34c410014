// Binding of mask_encode; the sizes of workspaces come from the *_workspace functions.
#include "core/bind.h"
#include "masks/mask_encode.h"

namespace fastregion {
namespace {

MaskEncodeParams mask_encode_params(int dtype, Address tiles, double scale, int full,
                                    Address conv1_weight, Address conv1_bias, Address conv2_weight,
                                    Address conv2_bias, int64_t num_tiles, int64_t height,
                                    int64_t width, int64_t hidden, int64_t tokens) {
  return {.dtype = static_cast<DType>(dtype),
          .tiles = reinterpret_cast<const uint8_t*>(tiles),
          .scale = scale,
          .full = full,
          .conv1_weight = reinterpret_cast<const void*>(conv1_weight),
          .conv1_bias = reinterpret_cast<const void*>(conv1_bias),
          .conv2_weight = reinterpret_cast<const void*>(conv2_weight),
          .conv2_bias = reinterpret_cast<const void*>(conv2_bias),
          .num_tiles = num_tiles,
          .height = height,
          .width = width,
          .hidden = hidden,
          .tokens = tokens};
}

MaskLinearParams mask_linear_params(Address weight, int64_t channel_stride, int64_t position_stride,
                                    Address bias, Address weight_sums, int64_t channels,
                                    Address out) {
  return {.weight = reinterpret_cast<const void*>(weight),
          .channel_stride = channel_stride,
          .position_stride = position_stride,
          .bias = reinterpret_cast<const void*>(bias),
          .weight_sums = reinterpret_cast<const void*>(weight_sums),
          .channels = channels,
          .out = reinterpret_cast<void*>(out)};
}

// The CPU kernels need no workspace.
int64_t no_workspace(const MaskEncodeParams&, int64_t, int) { return 0; }

void mask_encode(const MaskEncodeParams& params, const MaskLinearParams& linear, Address,
                 int num_threads) {
  cpu::mask_encode(params, linear, num_threads);
}

void mask_features(const MaskEncodeParams& params, Address features, Address, int num_threads) {
  cpu::mask_features(params, reinterpret_cast<void*>(features), num_threads);
}

void mask_features_backward(const MaskEncodeParams& params, Address grad, Address conv1_weight,
                            Address conv1_bias, Address conv2_weight, Address conv2_bias, Address,
                            int num_threads) {
  cpu::mask_features_backward(
      params, reinterpret_cast<const void*>(grad), reinterpret_cast<void*>(conv1_weight),
      reinterpret_cast<void*>(conv1_bias), reinterpret_cast<void*>(conv2_weight),
      reinterpret_cast<void*>(conv2_bias), num_threads);
}

#ifdef FASTREGION_WITH_CUDA
void mask_encode_cuda(const MaskEncodeParams& params, const MaskLinearParams& linear,
                      Address workspace, int device, Address stream) {
  const DeviceGuard guard(device);
  cuda::mask_encode(params, linear, reinterpret_cast<void*>(workspace),
                    reinterpret_cast<cudaStream_t>(stream));
}

void mask_features_cuda(const MaskEncodeParams& params, Address features, Address workspace,
                        int device, Address stream) {
  const DeviceGuard guard(device);
  cuda::mask_features(params, reinterpret_cast<void*>(features), reinterpret_cast<void*>(workspace),
                      reinterpret_cast<cudaStream_t>(stream));
}

void mask_features_backward_cuda(const MaskEncodeParams& params, Address grad, Address conv1_weight,
                                 Address conv1_bias, Address conv2_weight, Address conv2_bias,
                                 Address workspace, int device, Address stream) {
  const DeviceGuard guard(device);
  cuda::mask_features_backward(
      params, reinterpret_cast<const void*>(grad), reinterpret_cast<void*>(conv1_weight),
      reinterpret_cast<void*>(conv1_bias), reinterpret_cast<void*>(conv2_weight),
      reinterpret_cast<void*>(conv2_bias), reinterpret_cast<void*>(workspace),
      reinterpret_cast<cudaStream_t>(stream));
}

template <int64_t (*function)(const MaskEncodeParams&, int64_t)>
int64_t workspace_cuda(const MaskEncodeParams& params, int64_t number, int, Address) {
  return function(params, number);
}
#endif

}  // namespace

void bind_mask_encode(py::module_& module) {
  // Positional arguments: keywords would cost more than a small operator.
  py::class_<MaskEncodeParams>(module, "MaskEncodeParams").def(py::init(&mask_encode_params));
  py::class_<MaskLinearParams>(module, "MaskLinearParams").def(py::init(&mask_linear_params));
  const auto release = py::call_guard<py::gil_scoped_release>();
  module.def("mask_encode_share", &cpu::mask_encode_share, release);
  module.def("mask_encode_workspace", &no_workspace, release);
  module.def("mask_features_workspace", &no_workspace, release);
  module.def("mask_encode", &mask_encode, release);
  module.def("mask_features", &mask_features, release);
  module.def("mask_features_backward", &mask_features_backward, release);
#ifdef FASTREGION_WITH_CUDA
  module.def("mask_encode_workspace_cuda", &workspace_cuda<&cuda::mask_encode_workspace>);
  module.def("mask_features_workspace_cuda", &workspace_cuda<&cuda::mask_features_workspace>);
  module.def("mask_encode_cuda", &mask_encode_cuda, release);
  module.def("mask_features_cuda", &mask_features_cuda, release);
  module.def("mask_features_backward_cuda", &mask_features_backward_cuda, release);
#endif
}

}  // namespace fastregion
