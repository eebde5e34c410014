#include "masks/panel_product.h"

#include <cstddef>
#include <vector>

#include "core/isa.h"

#define FASTREGION_ISA_SOURCE "masks/panel_product.inc"
#include "core/for_each_isa.h"

namespace fastregion {
namespace {

// The widest vector, and the widest block of channels of any instruction set.
constexpr size_t kAlignment = 64;
constexpr size_t kBlockBytes = 4 * kAlignment;

struct alignas(kAlignment) Line {
  char bytes[kBlockBytes];
};

}  // namespace

template <class Real>
void panel_product(const PanelProduct<Real>& product) {
  std::vector<Line> block(static_cast<size_t>(product.depth));
  Line sums[kPanelRows];
  FASTREGION_SELECT_ISA(panel_product<Real>)
  (product, reinterpret_cast<Real*>(block.data()), reinterpret_cast<Real*>(sums));
}

template void panel_product(const PanelProduct<float>& product);
template void panel_product(const PanelProduct<double>& product);

}  // namespace fastregion
