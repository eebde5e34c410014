#include <pybind11/pybind11.h>

namespace fastregion {

void bind_regions(pybind11::module_& module) { module.doc() = "Operators of the family regions."; }

}  // namespace fastregion
