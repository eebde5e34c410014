#include "core/parallel.h"

#include <omp.h>
#include <pthread.h>

namespace fastregion {
namespace {

bool forked_child = false;

// Registered when the library is loaded, before any fork that could matter to it.
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { forked_child = true; });

}  // namespace

bool in_forked_child() { return forked_child; }

int usable_threads(int64_t count, int64_t grain, int num_threads) {
  if (num_threads <= 1 || in_forked_child() || omp_in_parallel()) return 1;
  const int64_t parts = count / std::max<int64_t>(grain, 1);
  return static_cast<int>(std::clamp<int64_t>(parts, 1, num_threads));
}

}  // namespace fastregion
