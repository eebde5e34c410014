#include "regions/polygon.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "regions/rle.h"

namespace fastregion {
namespace {

constexpr int64_t kScale = 5;  // fine grid steps per pixel
constexpr int64_t kMiddle =
    2;  // fine step just left of a column's middle: between 5 x + 2 and 5 x + 3

struct FinePoint {
  int64_t x, y;
};

// Truncates toward zero, negative values included: that is the rounding to reproduce.
int64_t to_fine(double pixels) { return static_cast<int64_t>(kScale * pixels + 0.5); }

// Columns whose middle can be crossed by an outline between two fine coordinates.
struct Columns {
  int64_t first, last;
};

Columns columns_between(int64_t low, int64_t high, int64_t width) {
  const int64_t first = std::max<int64_t>(low - kMiddle, 0) / kScale;  // may be one too early
  const int64_t last = std::min((std::max<int64_t>(high, 0)) / kScale, width - 1);
  return {first, last};
}

// Collects, for one polygon, where its outline crosses the middles of the columns, as positions
// x * height + y of the first pixel whose centre lies at or below the crossing.
class Crossings {
 public:
  Crossings(int64_t height, int64_t width) : height_(height), width_(width) {}

  // The walk from `from` to `to` takes one fine step at a time along the longer axis and rounds the
  // other coordinate. It always runs in the direction of growth of the longer axis, so an edge and
  // its reverse visit the same points. Here only the steps that cross a middle are computed.
  void add_edge(FinePoint from, FinePoint to) {
    const int64_t dx = std::abs(to.x - from.x);
    const int64_t dy = std::abs(to.y - from.y);
    if (dx >= dy) {
      if (dx == 0) return;  // a repeated point crosses nothing
      if (from.x > to.x) std::swap(from, to);
      const double slope = static_cast<double>(to.y - from.y) / static_cast<double>(dx);
      add_flat_edge(from, dx, slope);
    } else {
      if (from.y > to.y) std::swap(from, to);
      const double slope = static_cast<double>(to.x - from.x) / static_cast<double>(dy);
      add_steep_edge(from, dy, slope);
    }
  }

  std::vector<int64_t> sorted() && {
    std::sort(positions_.begin(), positions_.end());
    return std::move(positions_);
  }

 private:
  // x grows by one per step: the middle of column c is crossed by the step that arrives at 5 c + 3.
  void add_flat_edge(FinePoint from, int64_t dx, double slope) {
    const auto y_at = [&](int64_t step) {
      return static_cast<int64_t>(static_cast<double>(from.y) + slope * static_cast<double>(step) +
                                  0.5);
    };
    const Columns columns = columns_between(from.x, from.x + dx, width_);
    for (int64_t c = columns.first; c <= columns.last; ++c) {
      const int64_t step = kScale * c + kMiddle + 1 - from.x;
      if (step < 1 || step > dx) continue;
      add(c, std::min(y_at(step), y_at(step - 1)));
    }
  }

  // y grows by one per step and x changes by at most one: the step is found by bisection.
  void add_steep_edge(FinePoint from, int64_t dy, double slope) {
    const auto x_at = [&](int64_t step) {
      return static_cast<int64_t>(static_cast<double>(from.x) + slope * static_cast<double>(step) +
                                  0.5);
    };
    const int64_t x_first = x_at(0);
    const int64_t x_last = x_at(dy);
    const Columns columns =
        columns_between(std::min(x_first, x_last), std::max(x_first, x_last), width_);
    for (int64_t c = columns.first; c <= columns.last; ++c) {
      const int64_t middle = kScale * c + kMiddle;
      const bool right_first = x_first > middle;
      if (right_first == (x_last > middle)) continue;
      int64_t before = 0;  // on the side of the first point
      int64_t after = dy;  // on the side of the last one
      while (after - before > 1) {
        const int64_t step = before + (after - before) / 2;
        ((x_at(step) > middle) == right_first ? before : after) = step;
      }
      add(c, from.y + before);
    }
  }

  void add(int64_t column, int64_t fine_y) {
    const double y = (static_cast<double>(fine_y) + 0.5) / kScale - 0.5;
    const double row = std::ceil(std::clamp(y, 0.0, static_cast<double>(height_)));
    positions_.push_back(column * height_ + static_cast<int64_t>(row));
  }

  const int64_t height_;
  const int64_t width_;
  std::vector<int64_t> positions_;
};

}  // namespace

void bits_from_polygon(const double* xy, int64_t num_points, int64_t height, int64_t width,
                       uint64_t* words) {
  if (num_points == 0 || height == 0 || width == 0) return;
  const auto point = [&](int64_t i) {
    return FinePoint{to_fine(xy[2 * i]), to_fine(xy[2 * i + 1])};
  };
  Crossings crossings(height, width);
  for (int64_t i = 0; i < num_points; ++i) {
    crossings.add_edge(point(i), point((i + 1) % num_points));
  }
  // A closed outline crosses each middle an even number of times.
  bits_from_positions(std::move(crossings).sorted(), height, width, words);
}

}  // namespace fastregion
