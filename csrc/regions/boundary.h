// The boundary of a bit-packed mask: what an erosion takes away.
//
//   boundary(y, x) = mask(y, x) and not all of mask(y + dy, x + dx), |dy| <= radius, |dx| <= radius
//
// Outside of the image there is no mask, so that pixels near the edge of the image are boundary.
// That is the mask minus `radius` erosions by a 3 x 3 square, as boundary IoU defines it.
//
//   words and boundary [height, row_words(width)]   see bit_rows.h
#pragma once

#include <cstdint>

namespace fastregion {

// `boundary` must come zeroed.
void mask_boundary(const uint64_t* words, int64_t height, int64_t width, int64_t radius,
                   uint64_t* boundary, int num_threads);

}  // namespace fastregion
