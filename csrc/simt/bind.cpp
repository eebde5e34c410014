// Binding of the harness itself: how the next launches are scheduled, kernels that are broken on
// purpose, and the product of one tile.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "simt/faults.h"
#include "simt/products.h"
#include "simt/schedule.h"

namespace py = pybind11;

namespace fastregion {

void bind_simt(py::module_& module) {
  py::enum_<simt::Order>(module, "Order", py::module_local())
      .value("FORWARD", simt::Order::kForward)
      .value("REVERSE", simt::Order::kReverse)
      .value("RANDOM", simt::Order::kRandom);
  module.def("set_schedule", [](simt::Order threads, simt::Order blocks, uint64_t seed) {
    simt::set_schedule({.threads = threads, .blocks = blocks, .seed = seed});
  });
  module.def("fault_names", &simt::fault_names);
  module.def("run_fault", &simt::run_fault, "name of a fault -> what the kernel wrote");
  py::enum_<simt::Swap>(module, "Swap", py::module_local())
      .value("NOTHING", simt::Swap::kNothing)
      .value("HALVES_OF_A", simt::Swap::kHalvesOfA)
      .value("HALVES_OF_B", simt::Swap::kHalvesOfB)
      .value("LANES_OF_B", simt::Swap::kLanesOfB);
  module.def("tile_product", [](int dtype, std::uintptr_t a, std::uintptr_t b, std::uintptr_t c,
                                bool b_by_rows, simt::Swap swap) {
    simt::tile_product(static_cast<DType>(dtype), reinterpret_cast<const void*>(a),
                       reinterpret_cast<const void*>(b), reinterpret_cast<float*>(c), b_by_rows,
                       swap);
  });
}

}  // namespace fastregion
