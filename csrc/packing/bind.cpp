#include <pybind11/pybind11.h>

namespace fastregion {

void bind_packing(pybind11::module_& module) { module.doc() = "Operators of the family packing."; }

}  // namespace fastregion
