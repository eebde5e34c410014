// Compiled without -fsanitize=thread even in that build, which defines FASTREGION_SIMT_THREAD
// instead: the switches themselves must not be watched.
#include "simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FASTREGION_SIMT_THREAD
#include <sanitizer/tsan_interface.h>
#endif

#ifndef __x86_64__
#error "the SIMT harness knows how to switch stacks on x86-64 only"
#endif

// simt_switch_stack(void** save, void* load): pushes the callee-saved registers, exchanges stacks,
// pops them. Left by a jump, not by ret: the return predictor would miss at every switch.
asm(R"(
.text
.globl fastregion_simt_switch_stack
.hidden fastregion_simt_switch_stack
.type fastregion_simt_switch_stack, @function
fastregion_simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size fastregion_simt_switch_stack, .-fastregion_simt_switch_stack
)");
extern "C" void fastregion_simt_switch_stack(void** save, void* load);

namespace fastregion::simt {
namespace {

constexpr std::size_t kStackBytes = 128 * 1024;  // touched pages only become real memory
constexpr int kSavedRegisters = 6;

Fiber* entering = nullptr;  // handed over to enter(), which has no argument

std::size_t page_bytes() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

Fiber::Fiber() {
  void* memory = mmap(nullptr, kStackBytes + page_bytes(), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, page_bytes(), PROT_NONE);
  stack_ = static_cast<char*>(memory) + page_bytes();
#ifdef FASTREGION_SIMT_THREAD
  race_detector_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#ifdef FASTREGION_SIMT_THREAD
  __tsan_destroy_fiber(race_detector_);
#endif
  munmap(stack_ - page_bytes(), kStackBytes + page_bytes());
}

void Fiber::start(void (*entry)(void*), void* argument) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack_, kStackBytes);
#endif
  entry_ = entry;
  argument_ = argument;
  own_shadow_ = nullptr;
  // As if enter() had been called from a stack aligned to 16: on top lies a return address (none).
  auto* top = reinterpret_cast<std::uintptr_t*>(stack_ + kStackBytes) - 1;
  *top = 0;
  *--top = reinterpret_cast<std::uintptr_t>(&Fiber::enter);
  for (int k = 0; k < kSavedRegisters; ++k) *--top = 0;
  position_ = top;
}

void Fiber::enter() {
  Fiber& self = *entering;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &self.scheduler_bottom_, &self.scheduler_size_);
#endif
  self.entry_(self.argument_);
  self.suspend(/*last=*/true);
  __builtin_unreachable();
}

void Fiber::resume() {
  entering = this;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&scheduler_shadow_, stack_, kStackBytes);
#endif
#ifdef FASTREGION_SIMT_THREAD
  // No order follows from a switch: only what CUDA orders counts.
  scheduler_race_detector_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(race_detector_, __tsan_switch_to_fiber_no_sync);
#endif
  fastregion_simt_switch_stack(&scheduler_, position_);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(scheduler_shadow_, nullptr, nullptr);
#endif
}

void Fiber::suspend([[maybe_unused]] bool last) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &own_shadow_, scheduler_bottom_, scheduler_size_);
#endif
#ifdef FASTREGION_SIMT_THREAD
  __tsan_switch_to_fiber(scheduler_race_detector_, __tsan_switch_to_fiber_no_sync);
#endif
  fastregion_simt_switch_stack(&position_, scheduler_);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(own_shadow_, &scheduler_bottom_, &scheduler_size_);
#endif
}

}  // namespace fastregion::simt
