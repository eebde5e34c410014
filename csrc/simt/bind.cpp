// Binding of the harness itself: how the next launches are scheduled, and kernels that are broken
// on purpose.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "simt/faults.h"
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
}

}  // namespace fastregion
