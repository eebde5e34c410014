// Binding of the region functions. Masks cross the border as C-contiguous NumPy arrays; shapes are
// checked here because a wrong one would read foreign memory, values by the functions themselves.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/huge_pages.h"
#include "core/parallel.h"
#include "regions/bit_rows.h"
#include "regions/boundary.h"
#include "regions/polygon.h"
#include "regions/resize.h"
#include "regions/rle.h"

namespace py = pybind11;

namespace fastregion {
namespace {

constexpr int kExact = py::array::c_style;
using Bits = py::array_t<uint64_t, kExact>;   // [H, ceil(W / 64)]
using Counts = py::array_t<int64_t, kExact>;  // [runs]

void check_size(int64_t height, int64_t width) {
  check(height >= 0 && width >= 0, "size: must not be negative, got (", height, ", ", width, ")");
}

void check_bits(const Bits& bits, int64_t width) {
  check(bits.ndim() == 2 && width >= 0 && bits.shape(1) == row_words(width),
        "bits: must be [height, ", row_words(width), "] for width ", width);
}

// Zeros from calloc: what comes fresh from the system is not written, and not mapped before use.
template <class T>
py::array_t<T> zeros(const std::vector<py::ssize_t>& shape) {
  size_t count = 1;
  for (const py::ssize_t extent : shape) count *= static_cast<size_t>(extent);
  void* data = std::calloc(std::max(count, size_t{1}), sizeof(T));
  if (data == nullptr) throw std::bad_alloc();
  advise_huge_pages(data, static_cast<int64_t>(count * sizeof(T)));
  return py::array_t<T>(shape, static_cast<T*>(data), py::capsule(data, &std::free));
}

Bits zero_bits(int64_t height, int64_t width) {
  return zeros<uint64_t>({height, row_words(width)});
}

template <class T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

Bits pack(const py::array_t<uint8_t, kExact>& mask) {
  check(mask.ndim() == 2, "mask: must be [height, width], got ", mask.ndim(), " dimensions");
  const int64_t height = mask.shape(0);
  const int64_t width = mask.shape(1);
  Bits bits({height, row_words(width)});
  const uint8_t* from = mask.data();
  uint64_t* to = bits.mutable_data();
  py::gil_scoped_release release;
  pack_bits(from, height, width, to);
  return bits;
}

py::array_t<bool> unpack(const Bits& bits, int64_t width) {
  check_bits(bits, width);
  const int64_t height = bits.shape(0);
  auto mask = zeros<bool>({height, width});
  const uint64_t* from = bits.data();
  auto* to = reinterpret_cast<uint8_t*>(mask.mutable_data());
  py::gil_scoped_release release;
  unpack_onto_zeros(from, height, width, to);
  return mask;
}

py::tuple extent(const Bits& bits, int64_t width) {
  check_bits(bits, width);
  const MaskExtent found = mask_extent(bits.data(), bits.shape(0), width);
  return py::make_tuple(found.area,
                        py::make_tuple(found.box.x0, found.box.y0, found.box.x1, found.box.y1));
}

py::tuple sums(const Bits& bits, int64_t width) {
  check_bits(bits, width);
  const CoordinateSums found = coordinate_sums(bits.data(), bits.shape(0), width);
  return py::make_tuple(found.x, found.y);
}

std::span<const int64_t> to_span(const Counts& counts) {
  check(counts.ndim() == 1, "rle: counts must be a flat list, got ", counts.ndim(), " dimensions");
  return {counts.data(), static_cast<size_t>(counts.size())};
}

Counts bits_to_counts(const Bits& bits, int64_t width) {
  check_bits(bits, width);
  return to_array(counts_from_bits(bits.data(), bits.shape(0), width));
}

py::bytes bits_to_string(const Bits& bits, int64_t width) {
  check_bits(bits, width);
  return string_from_bits(bits.data(), bits.shape(0), width);
}

Bits counts_to_bits(const Counts& counts, int64_t height, int64_t width) {
  check_size(height, width);
  Bits bits = zero_bits(height, width);
  bits_from_counts(to_span(counts), height, width, bits.mutable_data());
  return bits;
}

Bits string_to_bits(const py::bytes& text, int64_t height, int64_t width) {
  check_size(height, width);
  Bits bits = zero_bits(height, width);
  bits_from_string(std::string_view(text), height, width, bits.mutable_data());
  return bits;
}

py::array_t<bool> strings_to_masks(const std::vector<py::bytes>& texts, int64_t height,
                                   int64_t width, int num_threads) {
  check_size(height, width);
  const auto count = static_cast<int64_t>(texts.size());
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  auto masks = zeros<bool>({count, height, width});
  auto* to = reinterpret_cast<uint8_t*>(masks.mutable_data());
  py::gil_scoped_release release;
  parallel_for(count, 1, num_threads, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> bits(static_cast<size_t>(height * row_words(width)));
    for (int64_t i = begin; i < end; ++i) {
      std::fill(bits.begin(), bits.end(), uint64_t{0});
      bits_from_string(views[static_cast<size_t>(i)], height, width, bits.data());
      unpack_onto_zeros(bits.data(), height, width, to + i * height * width);
    }
  });
  return masks;
}

py::bytes counts_to_string(const Counts& counts) { return string_from_counts(to_span(counts)); }

Counts string_to_counts(const py::bytes& text) {
  return to_array(counts_from_string(std::string_view(text)));
}

py::tuple to_tuple(const CountsExtent& found) {
  return py::make_tuple(found.area, py::make_tuple(found.x, found.y, found.width, found.height));
}

py::tuple counts_extent(const Counts& counts, int64_t height, int64_t width) {
  check_size(height, width);
  return to_tuple(extent_of_counts(to_span(counts), height, width));
}

py::tuple string_extent(const py::bytes& text, int64_t height, int64_t width) {
  check_size(height, width);
  return to_tuple(extent_of_string(std::string_view(text), height, width));
}

Bits polygon_to_bits(const py::array_t<double, kExact>& points, int64_t height, int64_t width) {
  check_size(height, width);
  check(points.ndim() == 2 && points.shape(1) == 2, "polygon: points must be [num_points, 2]");
  Bits bits = zero_bits(height, width);
  bits_from_polygon(points.data(), points.shape(0), height, width, bits.mutable_data());
  return bits;
}

Bits resize(const Bits& bits, int64_t width, int64_t new_height, int64_t new_width,
            int num_threads) {
  check_bits(bits, width);
  check(width > 0 && bits.shape(0) > 0 && new_height > 0 && new_width > 0,
        "resize: sizes must be positive, got (", bits.shape(0), ", ", width, ") to (", new_height,
        ", ", new_width, ")");
  Bits resized({new_height, row_words(new_width)});
  const int64_t height = bits.shape(0);
  const uint64_t* from = bits.data();
  uint64_t* to = resized.mutable_data();
  py::gil_scoped_release release;
  resize_mask(from, height, width, to, new_height, new_width, num_threads);
  return resized;
}

Bits boundary(const Bits& bits, int64_t width, int64_t radius, int num_threads) {
  check_bits(bits, width);
  check(radius >= 0, "boundary: radius must not be negative, got ", radius);
  const int64_t height = bits.shape(0);
  Bits result = zero_bits(height, width);
  const uint64_t* from = bits.data();
  uint64_t* to = result.mutable_data();
  py::gil_scoped_release release;
  mask_boundary(from, height, width, radius, to, num_threads);
  return result;
}

// The masks of a list and their boxes [N, 4], checked to lie inside.
std::vector<BoundedMask> bounded_masks(const std::vector<Bits>& masks, const Counts& boxes,
                                       int64_t height, int64_t num_words) {
  const auto count = static_cast<py::ssize_t>(masks.size());
  check(boxes.ndim() == 2 && boxes.shape(0) == count && boxes.shape(1) == 4, "boxes: must be [",
        count, ", 4]");
  std::vector<BoundedMask> bounded;
  bounded.reserve(masks.size());
  for (py::ssize_t i = 0; i < count; ++i) {
    const Bits& bits = masks[static_cast<size_t>(i)];
    check(bits.ndim() == 2 && bits.shape(0) == height && bits.shape(1) == num_words,
          "masks: must all be [", height, ", ", num_words, "]");
    const int64_t* box = boxes.data(i);
    check(0 <= box[0] && box[2] <= num_words * kWordBits && 0 <= box[1] && box[3] <= height,
          "boxes: must lie inside the masks, box ", i, " does not");
    bounded.push_back({bits.data(), {box[0], box[1], box[2], box[3]}});
  }
  return bounded;
}

Counts intersections(const std::vector<Bits>& first, const Counts& first_boxes,
                     const std::vector<Bits>& second, const Counts& second_boxes, bool symmetric,
                     int num_threads) {
  Counts counts({first.size(), second.size()});
  if (first.empty() || second.empty()) return counts;
  check(first[0].ndim() == 2, "masks: must be [height, words]");
  const int64_t height = first[0].shape(0);
  const int64_t num_words = first[0].shape(1);
  const auto rows = bounded_masks(first, first_boxes, height, num_words);
  const auto columns = bounded_masks(second, second_boxes, height, num_words);
  check(!symmetric || first.size() == second.size(), "symmetric: needs the same masks twice");
  int64_t* to = counts.mutable_data();
  py::gil_scoped_release release;
  count_intersections(rows.data(), static_cast<int64_t>(rows.size()), columns.data(),
                      static_cast<int64_t>(columns.size()), num_words, symmetric, num_threads, to);
  return counts;
}

}  // namespace

void bind_regions(py::module_& module) {
  using namespace pybind11::literals;
  module.def("pack", &pack, "mask"_a, "uint8 [H, W] (not 0 is inside) -> bits [H, ceil(W / 64)]");
  module.def("unpack", &unpack, "bits"_a, "width"_a, "bits -> bool [H, W]");
  module.def("extent", &extent, "bits"_a, "width"_a, "bits -> (area, (x0, y0, x1, y1)), half open");
  module.def("coordinate_sums", &sums, "bits"_a, "width"_a,
             "bits -> sums of the column and row indices of the pixels set");
  module.def("bits_to_counts", &bits_to_counts, "bits"_a, "width"_a, "bits -> run lengths");
  module.def("counts_to_bits", &counts_to_bits, "counts"_a, "height"_a, "width"_a,
             "run lengths -> bits");
  module.def("bits_to_string", &bits_to_string, "bits"_a, "width"_a, "bits -> compressed bytes");
  module.def("string_to_bits", &string_to_bits, "text"_a, "height"_a, "width"_a,
             "compressed bytes -> bits");
  module.def("strings_to_masks", &strings_to_masks, "texts"_a, "height"_a, "width"_a,
             "num_threads"_a, "list of compressed bytes -> bool [N, H, W]");
  module.def("counts_extent", &counts_extent, "counts"_a, "height"_a, "width"_a,
             "run lengths -> (area, (x, y, width, height))");
  module.def("string_extent", &string_extent, "text"_a, "height"_a, "width"_a,
             "compressed bytes -> (area, (x, y, width, height))");
  module.def("counts_to_string", &counts_to_string, "counts"_a, "run lengths -> compressed bytes");
  module.def("string_to_counts", &string_to_counts, "text"_a, "compressed bytes -> run lengths");
  module.def("polygon_to_bits", &polygon_to_bits, "points"_a, "height"_a, "width"_a,
             "float64 [K, 2] (x, y) -> bits");
  module.def("resize", &resize, "bits"_a, "width"_a, "new_height"_a, "new_width"_a, "num_threads"_a,
             "bits -> bits of another size, nearest");
  module.def("boundary", &boundary, "bits"_a, "width"_a, "radius"_a, "num_threads"_a,
             "bits -> bits without those that an erosion by radius pixels keeps");
  module.def("intersections", &intersections, "first"_a, "first_boxes"_a, "second"_a,
             "second_boxes"_a, "symmetric"_a, "num_threads"_a,
             "lists of bits with boxes int64 [N, 4] -> pixels in common, int64 [N, M]");
}

}  // namespace fastregion
