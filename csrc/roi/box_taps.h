// The cells that the bins of one box read, as lists for the CPU kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "roi/bilinear.h"

namespace fastregion::cpu {

// A vector's element by a signed index, as all sizes here are signed.
template <class T>
T& at(std::vector<T>& values, int64_t index) {
  return values[static_cast<size_t>(index)];
}
template <class T>
const T& at(const std::vector<T>& values, int64_t index) {
  return values[static_cast<size_t>(index)];
}

// The taps of all bins of one axis: those of bin b are [first[b], first[b + 1]).
template <class Real>
struct AxisTaps {
  std::vector<int64_t> first;  // [bins + 1]
  std::vector<int64_t> cell;   // distinct within a bin
  std::vector<Real> weight;    // not 0

  int64_t bins() const { return std::ssize(first) - 1; }
  int64_t count(int64_t bin) const { return at(first, bin + 1) - at(first, bin); }

  void set(const Axis<Real>& axis, int64_t bins) {
    const int64_t most = bins * std::min(2 * axis.samples, axis.cells);
    first.reserve(static_cast<size_t>(bins + 1));
    cell.reserve(static_cast<size_t>(most));
    weight.reserve(static_cast<size_t>(most));
    first.assign(1, 0);
    cell.clear();
    weight.clear();
    for (int64_t bin = 0; bin < bins; ++bin) {
      const SampleRange range = samples_on_map(axis, bin);
      for (int64_t number = range.first; number < range.last; ++number) {
        const AxisSample<Real> sample = axis_sample(axis, bin, number);
        add(sample.cell, sample.weight);
        add(sample.next, sample.next_weight);
      }
      first.push_back(std::ssize(cell));
    }
  }

 private:
  void add(int64_t at_cell, Real amount) {
    if (amount == 0) return;
    // Samples move in one direction, so a cell that is there already is among the last three.
    const int64_t from = std::max(first.back(), std::ssize(cell) - 3);
    for (int64_t k = std::ssize(cell) - 1; k >= from; --k) {
      if (at(cell, k) == at_cell) {
        at(weight, k) += amount;
        return;
      }
    }
    cell.push_back(at_cell);
    weight.push_back(amount);
  }
};

// The taps of one box. Columns are renamed to slots 0, 1, ... in the order of first use, so that
// only columns that some bin reads are ever formed.
template <class Real>
struct BoxTaps {
  AxisTaps<Real> rows;         // cells: source rows
  AxisTaps<Real> columns;      // cells: slots
  std::vector<int64_t> slots;  // column behind each slot

  // `slot_of_column` is scratch: [map width], all -1 before and after.
  void set(const Axis<Real>& vertical, int64_t output_height, const Axis<Real>& horizontal,
           int64_t output_width, std::vector<int64_t>& slot_of_column) {
    rows.set(vertical, output_height);
    columns.set(horizontal, output_width);
    slots.clear();
    slots.reserve(columns.cell.size());
    for (int64_t& column : columns.cell) {
      int64_t& slot = at(slot_of_column, column);
      if (slot < 0) {
        slot = std::ssize(slots);
        slots.push_back(column);
      }
      column = slot;
    }
    for (const int64_t column : slots) at(slot_of_column, column) = -1;
  }

  AxisTaps<Real> bins_of_slot;  // the columns' taps the other way round, for the gradient

  void transpose_columns() {
    auto& [first, bin, weight] = bins_of_slot;
    first.assign(slots.size() + 1, 0);
    for (const int64_t slot : columns.cell) ++at(first, slot + 1);
    for (size_t slot = 0; slot < slots.size(); ++slot) first[slot + 1] += first[slot];
    bin.resize(columns.cell.size());
    weight.resize(columns.cell.size());
    for (int64_t j = columns.bins() - 1; j >= 0; --j) {  // backwards, each slot from its end
      for (int64_t k = at(columns.first, j + 1) - 1; k >= at(columns.first, j); --k) {
        const int64_t place = --at(first, at(columns.cell, k) + 1);
        at(bin, place) = j;
        at(weight, place) = at(columns.weight, k);
      }
    }
    // Every entry now holds the begin of the slot before it: shift, and close with the total.
    first.erase(first.begin());
    first.push_back(std::ssize(bin));
  }

  // Replaces rows and columns by their offsets in memory.
  template <class OfRow, class OfColumn>
  void place(OfRow&& of_row, OfColumn&& of_column) {
    for (int64_t& row : rows.cell) row = of_row(row);
    for (int64_t& column : slots) column = of_column(column);
  }
};

}  // namespace fastregion::cpu
