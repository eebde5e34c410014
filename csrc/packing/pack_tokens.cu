// CUDA side of pack_tokens; the equations are in the header.
//
// Pure copy: rows move as the widest words that their length, strides and addresses allow. One warp
// per row; lane l copies words l, l + 32, ...: a warp step is one coalesced segment.
// Traffic: total rows read + written, the minimum. The few sources travel with the launch, so the
// kernel needs no table in device memory. A row number outside of the sources gives a row of zeros.
#include "core/device.h"
#include "packing/pack_tokens.h"

namespace fastregion::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kRowsPerBlock = 4;  // 128 threads: enough rows in flight, no shared memory

struct Sources {
  const char* data[kMaxSources];
  int64_t end[kMaxSources];  // in rows of the concatenation; the last one is repeated
  int64_t num_rows[kMaxSources];
  int64_t row_stride[kMaxSources];
};

template <class Word>
__global__ void __launch_bounds__(kWarp* kRowsPerBlock)
    pack_rows_kernel(Sources sources,      // [kMaxSources], unused ones end with the last
                     const int64_t* rows,  // [total]
                     Word* out,            // [total, row_words]
                     int64_t total, int64_t row_words) {
  const int tid = static_cast<int>(threadIdx.x);
  const int64_t r = int64_t{blockIdx.x} * kRowsPerBlock + tid / kWarp;
  const int lane = tid % kWarp;
  if (r >= total) return;  // whole warps leave together, and there is no barrier below
  const int64_t row = rows[r];
  int s = 0;
  while (s < kMaxSources - 1 && row >= sources.end[s]) ++s;
  Word* to = out + r * row_words;
  const bool inside = row >= 0 && row < sources.end[s];
  const int64_t source_row = row - (sources.end[s] - sources.num_rows[s]);
  const Word* from =
      inside ? reinterpret_cast<const Word*>(sources.data[s] + source_row * sources.row_stride[s])
             : nullptr;
  for (int64_t w = lane; w < row_words; w += kWarp) to[w] = inside ? from[w] : Word{};
}

template <class Word>
void launch_pack(const PackRowsParams& p, const Sources& sources, cudaStream_t stream) {
  launch("pack_tokens", pack_rows_kernel<Word>,
         {.blocks = ceil_div<int64_t>(p.total, kRowsPerBlock),
          .threads = kWarp * kRowsPerBlock,
          .stream = stream},
         sources, p.rows, static_cast<Word*>(p.out), p.total,
         p.row_bytes / static_cast<int64_t>(sizeof(Word)));
}

}  // namespace

void pack_rows(const PackRowsParams& p, cudaStream_t stream) {
  check(std::ssize(p.sources) <= kMaxSources, "pack_tokens: at most ", kMaxSources,
        " sources, got ", p.sources.size());
  if (p.total == 0 || p.row_bytes == 0) return;  // an empty grid is a launch error
  Sources sources{};
  int64_t end = 0;
  // Bits that any address, stride or length sets: the lowest one limits the width of a word.
  uintptr_t bits = reinterpret_cast<uintptr_t>(p.out) | static_cast<uintptr_t>(p.row_bytes);
  for (int64_t s = 0; s < kMaxSources; ++s) {
    if (s < std::ssize(p.sources)) {
      const RowSource& source = p.sources[static_cast<size_t>(s)];
      end += source.num_rows;
      sources.data[s] = static_cast<const char*>(source.data);
      sources.num_rows[s] = source.num_rows;
      sources.row_stride[s] = source.row_stride;
      bits |= reinterpret_cast<uintptr_t>(source.data) | static_cast<uintptr_t>(source.row_stride);
    }
    sources.end[s] = end;
  }
  if (bits % 16 == 0) {
    launch_pack<uint4>(p, sources, stream);
  } else if (bits % 4 == 0) {
    launch_pack<uint32_t>(p, sources, stream);
  } else {
    launch_pack<uint16_t>(p, sources, stream);  // every dtype has at least two bytes
  }
}

}  // namespace fastregion::cuda
