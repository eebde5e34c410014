// Binding of the attention operators; each is bound beside its header, in bind_<operator>.cpp.
#include <pybind11/pybind11.h>

namespace fastregion {

void bind_cross_attention(pybind11::module_& module);
void bind_decode_attention(pybind11::module_& module);
void bind_gated_norm(pybind11::module_& module);

void bind_attention(pybind11::module_& module) {
  module.doc() = "Attention: streaming, decoding on a cache, gated residuals.";
  bind_cross_attention(module);
  bind_decode_attention(module);
  bind_gated_norm(module);
}

}  // namespace fastregion
