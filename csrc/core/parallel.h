// Loops over CPU threads. The number of threads always comes from the caller (in Python, from
// torch.get_num_threads()), and a forked child is never parallel: the threads of the OpenMP runtime
// do not survive a fork, and waiting for them would hang a DataLoader worker for ever.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>

namespace fastregion {

// True in a process that was forked from one that had loaded this library.
bool in_forked_child();

// Threads worth using for `count` items when a thread should get at least `grain` of them.
int usable_threads(int64_t count, int64_t grain, int num_threads);

// Calls body(begin, end) on disjoint ranges that cover [0, count), each on one thread. The split
// depends only on count, grain and num_threads, so results do not depend on timing. The first
// exception thrown by a body is rethrown when all have finished.
template <class Body>
void parallel_for(int64_t count, int64_t grain, int num_threads, Body&& body) {
  if (count <= 0) return;
  const int threads = usable_threads(count, grain, num_threads);
  if (threads == 1) {
    body(int64_t{0}, count);
    return;
  }
  std::exception_ptr failure;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int part = 0; part < threads; ++part) {
    try {
      body(count * part / threads, count * (part + 1) / threads);
    } catch (...) {
#pragma omp critical(fastregion_parallel_for)
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace fastregion
