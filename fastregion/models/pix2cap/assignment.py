"""The cheapest one-to-one assignment, exactly: shortest augmenting paths (Jonker and Volgenant).

Rectangular costs, after Crouse, "On implementing 2D rectangular assignment algorithms" (2016). A
batch has some ten targets an image; one path a target, each step over all queries at once, takes
milliseconds, so that training needs no library for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["linear_sum_assignment"]


def linear_sum_assignment(cost: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Assign rows to columns so that the sum of their costs is smallest.

    Args:
        cost: ``[N, M]``; infinity forbids a pair.

    Returns:
        min(N, M) rows in ascending order, and their columns.

    Raises:
        ValueError: another shape, NaN or minus infinity, or no assignment of finite cost.
    """
    values = np.asarray(cost, np.float64)
    if values.ndim != 2:
        raise ValueError(f"cost: expected shape [N, M], got {values.shape}")
    if np.isnan(values).any() or np.isneginf(values).any():
        raise ValueError("cost: must not hold NaN or minus infinity (diverged predictions?)")
    if values.shape[0] > values.shape[1]:
        columns, rows = _assign(values.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    return _assign(values)


def _assign(cost: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """With at most as many rows as columns."""
    num_rows, num_columns = cost.shape
    row_price, column_price = np.zeros(num_rows), np.zeros(num_columns)  # the dual variables
    row_of = np.full(num_columns, -1, np.intp)
    column_of = np.full(num_rows, -1, np.intp)
    for start in range(num_rows):
        # Dijkstra from the new row to a free column, over reduced costs, which are never negative.
        distance = np.full(num_columns, np.inf)
        came_from = np.full(num_columns, -1, np.intp)
        done = np.zeros(num_columns, bool)
        reached = [start]
        row, length = start, 0.0
        while True:
            through = length + cost[row] - row_price[row] - column_price
            better = ~done & (through < distance)
            distance[better], came_from[better] = through[better], row
            open_distance = np.where(done, np.inf, distance)
            length = float(open_distance.min())
            if np.isinf(length):
                raise ValueError("cost: no assignment has a finite cost")
            nearest = np.flatnonzero(open_distance == length)
            free = nearest[row_of[nearest] < 0]  # of equals a free one ends the path
            column = int(free[0] if len(free) else nearest[0])
            done[column] = True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
            reached.append(row)
        row_price[start] += length
        for other in reached[1:]:
            row_price[other] += length - distance[column_of[other]]
        column_price[done] -= length - distance[done]
        while True:  # flip the path
            row = int(came_from[column])
            row_of[column] = row
            column_of[row], column = column, int(column_of[row])
            if row == start:
                break
    return np.arange(num_rows), column_of
