// The Python module fastregion._C: one submodule per operator family, and what `fastregion info`
// says about the build and the machine. Knows nothing of torch.
#include <pybind11/pybind11.h>

#include <string>

#include "core/isa.h"
#ifdef FASTREGION_WITH_CUDA
#include "core/device.h"
#endif

namespace fastregion {

// Each is defined in the bind.cpp of its folder.
void bind_regions(pybind11::module_& module);
void bind_roi(pybind11::module_& module);
void bind_masks(pybind11::module_& module);
void bind_packing(pybind11::module_& module);
void bind_attention(pybind11::module_& module);
#ifdef FASTREGION_SIMT
void bind_simt(pybind11::module_& module);
#endif

namespace {

#ifdef FASTREGION_WITH_CUDA
constexpr bool kCudaCompiled = true;
int cuda_device_count() { return device_count(); }
std::string cuda_obstacle() { return device_obstacle(); }
#else
constexpr bool kCudaCompiled = false;
int cuda_device_count() { return 0; }
std::string cuda_obstacle() { return "the native module was built without CUDA kernels"; }
#endif

}  // namespace
}  // namespace fastregion

PYBIND11_MODULE(_C, module) {
  using namespace fastregion;
  module.doc() = "Native operators of fastregion.";
  module.attr("__version__") = FASTREGION_VERSION;
  module.attr("cuda_compiled") = kCudaCompiled;
  module.def(
      "cpu_isa", [] { return isa_name(active_isa()); },
      "Instruction set that the CPU operators use: baseline, avx2, avx512 or avx512_bf16.");
  module.def("cuda_device_count", &cuda_device_count,
             "Number of CUDA devices this build can use (0 without CUDA kernels or driver).");
  module.def("cuda_obstacle", &cuda_obstacle,
             "Why no CUDA device can be used; empty where one can.");

  auto regions = module.def_submodule("regions", "Masks, run-length encoding, pairwise overlaps.");
  bind_regions(regions);
  auto roi = module.def_submodule("roi", "RoI-Align and its replay on tiles.");
  bind_roi(roi);
  auto masks = module.def_submodule("masks", "Mask tiles and mask embeddings.");
  bind_masks(masks);
  auto packing = module.def_submodule("packing", "Packed prompts.");
  bind_packing(packing);
  auto attention = module.def_submodule("attention", "Attention and what surrounds it.");
  bind_attention(attention);
#ifdef FASTREGION_SIMT
  auto simt = module.def_submodule("simt", "Kernels on the host, for tests.");
  bind_simt(simt);
#endif
}
