// Fresh memory in large pages. A new output of many megabytes is mapped as it is first written, and
// with pages of 4 KiB that takes longer than the writing itself.
#pragma once

#include <cstdint>

namespace fastregion {

// Asks the system to back `bytes` of memory at `data` with huge pages as they are touched: a hint,
// without effect on contents, on pages that are there already, or where there are no such pages.
void advise_huge_pages(void* data, int64_t bytes);

}  // namespace fastregion
