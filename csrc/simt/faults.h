// Kernels that break a rule each, to show that the harness notices. If one is no longer caught, the
// instrument is broken, not the kernel.
#pragma once

#include <string>
#include <vector>

namespace fastregion::simt {

// "none" is correct: a block sum through shared memory and warp shuffles.
std::vector<std::string> fault_names();

// Runs the kernel on 2 blocks of 64 threads over the inputs 0..127 and returns the two block sums
// (2016 and 6112); throws what the harness says.
std::vector<float> run_fault(const std::string& name);

}  // namespace fastregion::simt
