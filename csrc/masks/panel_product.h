// The product of a small matrix, gathered in panels, with rows of channels:
//
//   out[r, c] (+)= sum over s < depth of panels[r / kPanelRows, s, r % kPanelRows] * rows[s, c]
//
//   panels [ceil(num_rows / kPanelRows), depth, kPanelRows], the last one filled up with anything
//   rows [depth, row_stride], out [num_rows, out_stride], c < channels; everything Real
//
// Each out[r, c] is summed in the order of s, whatever the other rows are.
#pragma once

#include <cstdint>

namespace fastregion {

inline constexpr int64_t kPanelRows = 6;  // with 4 vectors of channels, 24 sums stay in registers

template <class Real>
struct PanelProduct {
  const Real* panels;
  int64_t num_rows, depth;
  const Real* rows;
  int64_t row_stride, channels;
  Real* out;
  int64_t out_stride;
  bool add;  // to what is in out
};

// float and double.
template <class Real>
void panel_product(const PanelProduct<Real>& product);

}  // namespace fastregion
