// The host's stand-ins for mma.sync, ldmatrix and cp.async; see core/mma.h, which includes this.
#pragma once

#include <cstring>
#include <vector>

#include "simt/kernel.h"

namespace fastregion::simt {

// Computes in float32, in the order of k; the rounding inside a tensor core is not modelled.
template <class T>
void multiply_matrices(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                       const Where& where);

struct MatrixRow {
  uint16_t values[8];
};

// Gives every lane its part of the rows that all lanes have read.
void exchange_matrices(uint32_t* registers, int count, bool transposed, const MatrixRow& row,
                       const Where& where);

// Ends the launch unless the pointer is a multiple of 16.
void check_matrix_alignment(const void* pointer, const char* instruction, const Where& where);

// Every lane reads its own row here, in the kernel's file, so that a sanitizer sees the access and
// names the right lane. The lanes beyond the last matrix read nothing.
inline void load_matrices(uint32_t* registers, int count, bool transposed, const void* row,
                          const Where& where) {
  MatrixRow values{};
  if (static_cast<int>(threadIdx.x % 32) < 8 * count) {
    check_matrix_alignment(row, "ldmatrix", where);
    values = *static_cast<const MatrixRow*>(row);
  }
  exchange_matrices(registers, count, transposed, values, where);
}

struct AsyncCopy {
  MatrixRow* to;
  MatrixRow values;
  int64_t group;
};

// What the running thread has asked for and not waited for; the thread must not end before.
struct AsyncCopies {
  std::vector<AsyncCopy> pending;
  int64_t groups = 0;  // ended
};

AsyncCopies& async_copies();

// Until the wait the destination is poison, as it may be on a device: a missing wait shows in every
// order, and so does a buffer that is filled again while it is read.
inline void copy_async(void* to, const void* from, bool present, const Where& where) {
  check_matrix_alignment(to, "cp.async", where);
  AsyncCopies& copies = async_copies();
  AsyncCopy copy{static_cast<MatrixRow*>(to), {}, copies.groups};
  if (present) {
    check_matrix_alignment(from, "cp.async", where);
    copy.values = *static_cast<const MatrixRow*>(from);
  }
  for (uint16_t& value : copy.to->values) value = 0xffff;
  copies.pending.push_back(copy);
}

inline void commit_async_copies() { ++async_copies().groups; }

inline void wait_for_async_copies(int newest) {
  AsyncCopies& copies = async_copies();
  const int64_t end = copies.groups - newest;
  std::erase_if(copies.pending, [&](const AsyncCopy& copy) {
    if (copy.group >= end) return false;
    *copy.to = copy.values;
    return true;
  });
}

}  // namespace fastregion::simt
