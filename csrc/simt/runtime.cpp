// Runs a grid on the host: one fiber per CUDA thread, one block at a time, one operating-system
// thread, hence no locks and exact repetition.
//
// Scheduling is "run ahead": a warp goes on until all of its lanes wait for the whole block or have
// ended, then the next warp does. So warps drift as far apart as barriers allow, which is what
// shows a missing one; turns taken evenly would hide it.
//
// Compiled without -fsanitize=thread even in that build, like fiber.cpp.
#include <stdlib.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/error.h"
#include "simt/fiber.h"
#include "simt/kernel.h"
#include "simt/matrix.h"
#include "simt/schedule.h"

#ifdef FASTREGION_SIMT_THREAD
#include <sanitizer/tsan_interface.h>
#endif

namespace fastregion::simt {
namespace {

constexpr int kWarp = 32;
constexpr std::size_t kSharedAlignment = 1024;

enum class State { kReady, kAtWarpOperation, kAtBarrier, kEnded };

struct Thread {
  Fiber fiber;
  State state = State::kReady;
  dim3 index;
  int number = 0;  // in the block
  Where where;     // of what it waits for
  // What a lane leaves for the last one of its mask, which computes all results.
  WarpOperation operation{};
  uint32_t mask = 0;
  uint64_t value = 0, result = 0;
  int operand = 0, width = 0;
  void (*compute)(void* const* lanes) =
      nullptr;        // of a matrix operation, whose value is an address
  int predicate = 0;  // at a barrier
  AsyncCopies async_copies;
};

struct Free {
  void operator()(void* memory) const { free(memory); }
};

class Block;
Block* current = nullptr;  // the block that runs, for the calls of its kernel
Schedule schedule;
std::mt19937_64 dice;

// Memory is ordered by what CUDA says orders it, and the race detector hears of nothing else.
void release(void* address) {
#ifdef FASTREGION_SIMT_THREAD
  __tsan_release(address);
#else
  (void)address;
#endif
}
void acquire(void* address) {
#ifdef FASTREGION_SIMT_THREAD
  __tsan_acquire(address);
#else
  (void)address;
#endif
}

std::string place(const Where& where) {
  std::string file = where.file_name();
  return concat(file.substr(file.rfind('/') + 1), ":", where.line(), ":", where.column());
}

bool same_place(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         std::strcmp(a.file_name(), b.file_name()) == 0;
}

const char* name(WarpOperation operation) {
  switch (operation) {
    case WarpOperation::kSync:
      return "__syncwarp";
    case WarpOperation::kBallot:
      return "__ballot_sync";
    case WarpOperation::kAny:
      return "__any_sync";
    case WarpOperation::kAll:
      return "__all_sync";
    case WarpOperation::kShuffle:
      return "__shfl_sync";
    case WarpOperation::kShuffleUp:
      return "__shfl_up_sync";
    case WarpOperation::kShuffleDown:
      return "__shfl_down_sync";
    case WarpOperation::kShuffleXor:
      return "__shfl_xor_sync";
    case WarpOperation::kMultiply:
      return "mma";
    case WarpOperation::kLoadMatrices:
      return "ldmatrix";
  }
  return "?";
}

std::vector<int> ordered(int count, Order order) {
  std::vector<int> result(static_cast<std::size_t>(count));
  std::iota(result.begin(), result.end(), 0);
  if (order == Order::kReverse) std::ranges::reverse(result);
  if (order == Order::kRandom) std::ranges::shuffle(result, dice);
  return result;
}

class Block {
 public:
  Block(const Shape& shape, void (*body)(void*), void* argument, std::deque<Thread>& threads)
      : shape_(shape), body_(body), argument_(argument), threads_(threads) {
    size_ = static_cast<int>(shape.threads.x * shape.threads.y * shape.threads.z);
    if (shape.shared_bytes > 0) {
      // Exactly as large as asked for, so that AddressSanitizer sees the first byte beyond.
      void* memory = nullptr;
      if (posix_memalign(&memory, kSharedAlignment, shape.shared_bytes) != 0)
        throw std::bad_alloc();
      std::memset(memory, 0xff, shape.shared_bytes);
      shared_.reset(memory);
    }
    for (int t = 0; t < size_; ++t) {
      Thread& thread = threads_[static_cast<std::size_t>(t)];
      const auto n = static_cast<unsigned>(t);
      thread.index = {n % shape.threads.x, n / shape.threads.x % shape.threads.y,
                      n / shape.threads.x / shape.threads.y};
      thread.number = t;
      thread.state = State::kReady;
      thread.async_copies = {};
      thread.fiber.start(&Block::thread_main, this);
    }
  }

  // Runs all threads to their ends; false when a rule was broken, with the reason in failure().
  bool run() {
    release(&begin_);
    current = this;
    const int num_warps = (size_ + kWarp - 1) / kWarp;
    while (ended_ < size_ && failure_.empty()) {
      progress_ = false;
      for (int warp : ordered(num_warps, schedule.threads)) run_warp(warp);
      if (!progress_ && failure_.empty()) failure_ = concat(block_name(), ": ", deadlock());
    }
    current = nullptr;
    acquire(&end_);
    return failure_.empty();
  }

  const std::string& failure() const { return failure_; }

  // ---- called by the threads ----

  void thread_body() {
    acquire(&begin_);
    body_(argument_);
    if (!running_->async_copies.pending.empty()) {
      fail_at([&] {
        return concat("the thread ends with ", running_->async_copies.pending.size(),
                      " asynchronous copies that it has not waited for");
      });
    }
    release(&end_);
    running_->state = State::kEnded;
    ++ended_;
    // Volta and later would let a barrier pass without the threads that have ended; our rule does
    // not, because older code paths and readers do not expect it.
    if (waiting_ > 0) {
      fail_at([&] {
        return concat("a thread ended while others wait at the barrier at ", place(barrier_where_));
      });
    }
  }

  int barrier(Reduction reduction, int predicate, const Where& where) {
    Thread& self = *running_;
    if (ended_ > 0)
      fail_at(
          [&] { return concat("barrier at ", place(where), " after some threads have ended"); });
    if (waiting_ > 0 && !same_place(where, barrier_where_)) {
      fail_at([&] {
        return concat("divergent barrier: thread ", self.number, " is at ", place(where),
                      ", others wait at ", place(barrier_where_));
      });
    }
    barrier_where_ = self.where = where;
    self.predicate = predicate;
    // Two addresses in turn: a fast thread's next arrival must not order a slow one's past.
    char* point = &barrier_points_[generation_ % 2];
    release(point);
    if (++waiting_ == size_) {
      waiting_ = 0;
      ++generation_;
      int count = 0;
      for (int t = 0; t < size_; ++t) count += thread(t).predicate != 0;
      barrier_result_ = reduction == Reduction::kOr    ? count > 0
                        : reduction == Reduction::kAnd ? count == size_
                                                       : count;
      for (int t = 0; t < size_; ++t) {
        thread(t).state = State::kReady;
        thread(t).result = static_cast<uint64_t>(barrier_result_);
      }
      progress_ = true;
    } else {
      self.state = State::kAtBarrier;
    }
    wait();
    acquire(point);
    return static_cast<int>(self.result);
  }

  uint64_t warp_operation(WarpOperation operation, uint32_t mask, uint64_t value, int operand,
                          int width, const Where& where) {
    Thread& self = *running_;
    const int warp = self.number / kWarp, lane = self.number % kWarp;
    const int lanes = std::min(kWarp, size_ - warp * kWarp);
    const auto at = [&] { return concat(name(operation), " at ", place(where)); };
    if ((mask >> lane & 1u) == 0) {
      fail_at([&] { return concat(at(), ": lane ", lane, " is not in its own mask"); });
    }
    if (lanes < kWarp && mask >> lanes != 0) {
      fail_at([&] { return concat(at(), ": the mask names lanes that the block does not have"); });
    }
    self.operation = operation;
    self.mask = mask;
    self.value = value;
    self.operand = operand;
    self.width = width;
    self.where = where;
    self.state = State::kAtWarpOperation;
    if (operation == WarpOperation::kSync) release(&self.value);

    bool complete = true;
    for (int other = 0; other < lanes; ++other) {
      if ((mask >> other & 1u) == 0) continue;
      const Thread& peer = thread(warp * kWarp + other);
      if (peer.state == State::kEnded) {
        fail_at([&] { return concat(at(), ": lane ", other, " of the mask has ended"); });
      }
      if (peer.state != State::kAtWarpOperation || peer.mask != mask) {
        complete = false;  // it may yet come, through an operation of other lanes
      } else if (peer.operation != operation || !same_place(peer.where, where)) {
        fail_at([&] {
          return concat("lanes ", lane, " and ", other, " are in different warp operations: ", at(),
                        " and ", name(peer.operation), " at ", place(peer.where));
        });
      }
    }
    if (complete) finish_warp_operation(warp, lanes, operation, mask, at);
    wait();
    if (operation == WarpOperation::kSync) {
      for (int other = 0; other < lanes; ++other) {
        if (mask >> other & 1u) acquire(&thread(warp * kWarp + other).value);
      }
    }
    return self.result;
  }

  void matrix_operation(WarpOperation operation, void (*compute)(void* const* lanes), void* lane,
                        const Where& where) {
    running_->compute = compute;
    warp_operation(operation, 0xffffffffu, reinterpret_cast<uint64_t>(lane), 0, kWarp, where);
  }

  void check_alignment(const void* pointer, const char* instruction, const Where& where) {
    if (reinterpret_cast<uintptr_t>(pointer) % alignof(uint4) == 0) return;
    fail_at([&] {
      return concat(instruction, " at ", place(where), ": an address is not a multiple of 16");
    });
  }

  AsyncCopies& async_copies() { return running_->async_copies; }

  void* shared(std::size_t bytes, const Where& where) {
    if (bytes > shape_.shared_bytes) {
      fail_at([&] {
        return concat("shared memory at ", place(where), ": the kernel needs ", bytes,
                      " bytes, launched with ", shape_.shared_bytes);
      });
    }
    return shared_.get();
  }

  void yield_now() { wait(); }

 private:
  static void thread_main(void* block) { static_cast<Block*>(block)->thread_body(); }

  Thread& thread(int t) { return threads_[static_cast<std::size_t>(t)]; }

  void run_warp(int warp) {
    const int first = warp * kWarp, count = std::min(kWarp, size_ - first);
    bool any = true;
    while (any && failure_.empty()) {
      any = false;
      for (int lane : ordered(count, schedule.threads)) {
        Thread& next = thread(first + lane);
        if (next.state != State::kReady) continue;
        any = progress_ = true;
        running_ = &next;
        threadIdx = next.index;
        next.fiber.resume();
        if (!failure_.empty()) return;
      }
    }
  }

  // Gives every lane of the mask its result, all at once: a lane that went on could change its
  // record before a slower one has read it.
  template <class At>
  void finish_warp_operation(int warp, int lanes, WarpOperation operation, uint32_t mask,
                             const At& at) {
    if (operation == WarpOperation::kMultiply || operation == WarpOperation::kLoadMatrices) {
      void* records[kWarp];
      for (int lane = 0; lane < kWarp; ++lane) {
        Thread& self = thread(warp * kWarp + lane);
        records[lane] = reinterpret_cast<void*>(self.value);
        self.state = State::kReady;
      }
      running_->compute(records);
      progress_ = true;
      return;
    }
    uint32_t votes = 0;
    for (int lane = 0; lane < lanes; ++lane) {
      if (mask >> lane & 1u) votes |= uint32_t{thread(warp * kWarp + lane).value != 0} << lane;
    }
    for (int lane = 0; lane < lanes; ++lane) {
      if ((mask >> lane & 1u) == 0) continue;
      Thread& self = thread(warp * kWarp + lane);
      switch (operation) {
        case WarpOperation::kSync:
          break;
        case WarpOperation::kBallot:
          self.result = votes;
          break;
        case WarpOperation::kAny:
          self.result = votes != 0;
          break;
        case WarpOperation::kAll:
          self.result = votes == mask;
          break;
        default: {
          const int source = source_lane(self, lane);
          if (source >= lanes || (mask >> source & 1u) == 0) {
            fail_at([&] {
              return concat(at(), ": lane ", lane, " reads lane ", source,
                            ", which is not in the mask");
            });
          }
          self.result = thread(warp * kWarp + source).value;
        }
      }
      self.state = State::kReady;
    }
    progress_ = true;
  }

  static int source_lane(const Thread& self, int lane) {
    const int begin = lane / self.width * self.width, end = begin + self.width;
    int source = lane;
    if (self.operation == WarpOperation::kShuffle) {
      const int within = self.operand % self.width;
      return begin + (within < 0 ? within + self.width : within);
    }
    if (self.operation == WarpOperation::kShuffleUp) source = lane - self.operand;
    if (self.operation == WarpOperation::kShuffleDown) source = lane + self.operand;
    if (self.operation == WarpOperation::kShuffleXor) source = lane ^ self.operand;
    // Outside of the segment a lane keeps its own value; xor may reach lower segments.
    const bool reaches =
        source < end && (source >= begin || self.operation == WarpOperation::kShuffleXor);
    return reaches ? source : lane;
  }

  void wait() {
    release(&end_);  // a thread that is abandoned here has done all it will do
    running_->fiber.suspend();
  }

  // Never returns: the scheduler ends the launch, and the thread is not resumed. The text is made
  // here, because destructors of what is alive on an abandoned stack never run.
  template <class Text>
  [[noreturn]] void fail_at(const Text& text) {
    failure_ = concat(block_name(), ", thread ", running_->number, ": ", text());
    while (true) wait();
  }

  static std::string block_name() {
    return concat("block (", blockIdx.x, ", ", blockIdx.y, ", ", blockIdx.z, ")");
  }

  std::string deadlock() {
    std::string text = "deadlock:";
    for (const auto& [state, what] : {std::pair{State::kAtBarrier, "the block barrier"},
                                      std::pair{State::kAtWarpOperation, "a warp operation"}}) {
      int count = 0;
      Where where;
      for (int t = 0; t < size_; ++t) {
        if (thread(t).state == state && count++ == 0) where = thread(t).where;
      }
      if (count > 0) text += concat(" ", count, " threads at ", what, " at ", place(where), ";");
    }
    return text + concat(" ", ended_, " have ended");
  }

  const Shape& shape_;
  void (*body_)(void*);
  void* argument_;
  std::deque<Thread>& threads_;  // stable addresses: suspended threads point to themselves
  std::unique_ptr<void, Free> shared_;
  int size_ = 0, ended_ = 0, waiting_ = 0, generation_ = 0, barrier_result_ = 0;
  Where barrier_where_;
  Thread* running_ = nullptr;
  bool progress_ = false;
  std::string failure_;
  char begin_ = 0, end_ = 0, barrier_points_[2] = {};  // addresses that order memory
};

}  // namespace

void set_schedule(const Schedule& chosen) {
  schedule = chosen;
  dice.seed(chosen.seed);
}

uint64_t warp_operation(WarpOperation operation, uint32_t mask, uint64_t value, int operand,
                        int width, const Where& where) {
  return current->warp_operation(operation, mask, value, operand, width, where);
}

void matrix_operation(WarpOperation operation, void (*compute)(void* const* lanes), void* lane,
                      const Where& where) {
  current->matrix_operation(operation, compute, lane, where);
}

void check_matrix_alignment(const void* pointer, const char* instruction, const Where& where) {
  current->check_alignment(pointer, instruction, where);
}

AsyncCopies& async_copies() { return current->async_copies(); }

int block_barrier(Reduction reduction, int predicate, const Where& where) {
  return current->barrier(reduction, predicate, where);
}

void* dynamic_shared_memory(std::size_t bytes, const Where& where) {
  return current->shared(bytes, where);
}

void maybe_yield() {
  if (schedule.threads == Order::kRandom && dice() % 4 == 0) current->yield_now();
}

void run(const char* op, const Shape& shape, void (*body)(void*), void* argument) {
  static std::deque<Thread> threads;
  const std::size_t block_size = std::size_t{shape.threads.x} * shape.threads.y * shape.threads.z;
  while (threads.size() < block_size) threads.emplace_back();
  gridDim = shape.blocks;
  blockDim = shape.threads;
  const auto [nx, ny, nz] = std::tuple(shape.blocks.x, shape.blocks.y, shape.blocks.z);
  for (int number : ordered(static_cast<int>(nx * ny * nz), schedule.blocks)) {
    const auto n = static_cast<unsigned>(number);
    blockIdx = {n % nx, n / nx % ny, n / nx / ny};
    Block block(shape, body, argument, threads);
    if (!block.run()) throw std::runtime_error(concat(op, ": ", block.failure()));
  }
}

}  // namespace fastregion::simt
