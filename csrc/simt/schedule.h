// In which order the harness runs threads, warps and blocks. A bug may show in one order only.
#pragma once

#include <cstdint>

namespace fastregion::simt {

enum class Order { kForward, kReverse, kRandom };

struct Schedule {
  Order threads = Order::kForward;  // lanes of a warp, and warps of a block
  Order blocks = Order::kForward;
  uint64_t seed = 0;  // of the random orders
};

// For all launches from now on.
void set_schedule(const Schedule& schedule);

}  // namespace fastregion::simt
