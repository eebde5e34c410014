// Polygons to masks, with the rounding of COCO's own rasteriser.
#pragma once

#include <cstdint>

namespace fastregion {

// Sets the pixels inside one closed polygon (parity rule).
//
//   xy [num_points, 2] float64, x and y in pixels     words [height, row_words(width)], zeroed
//
// The outline is rounded to a grid five times finer than the pixels, walked point by point, and
// sampled where it crosses the middle of a pixel column; between such crossings a column is filled
// from the pixel whose centre lies below the first to the one above the second. Parts outside the
// image are cut off. Coordinates must be finite and below 2^24 in magnitude.
void bits_from_polygon(const double* xy, int64_t num_points, int64_t height, int64_t width,
                       uint64_t* words);

}  // namespace fastregion
