#include <pybind11/pybind11.h>

namespace fastregion {

void bind_roi(pybind11::module_& module) { module.doc() = "Operators of the family roi."; }

}  // namespace fastregion
