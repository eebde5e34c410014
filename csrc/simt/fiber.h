// A fiber: a stack and a place to go on, switched to by hand. One exists for each CUDA thread of a
// block; they are kept and used again.
#pragma once

#include <cstddef>

namespace fastregion::simt {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls entry(argument) on the empty stack. Whatever ran there is forgotten:
  // its destructors do not run.
  void start(void (*entry)(void*), void* argument);

  // Goes on with the fiber, from the scheduler, until it suspends.
  void resume();

  // Back to the scheduler, from the fiber. `last` says that it will not be resumed.
  void suspend(bool last = false);

  void* race_detector() const { return race_detector_; }

 private:
  static void enter();

  char* stack_ = nullptr;      // the lowest usable byte; a guard page lies below
  void* position_ = nullptr;   // stack pointer while suspended
  void* scheduler_ = nullptr;  // stack pointer of the scheduler while the fiber runs
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  void* race_detector_ = nullptr;  // ThreadSanitizer's record of the fiber
  void* scheduler_race_detector_ = nullptr;
  void* own_shadow_ = nullptr;  // AddressSanitizer's fake stacks
  void* scheduler_shadow_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  std::size_t scheduler_size_ = 0;
};

}  // namespace fastregion::simt
