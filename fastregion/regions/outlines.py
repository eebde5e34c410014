"""Regions before they are pixels: boxes, points and polygons, which an image size makes masks.

Each outline checks what it can when it is made, and the rest when an image is known. Coordinates
are (x, y) in pixels: x to the right, y down, the centre of the first pixel at (0.5, 0.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastregion.regions._backend import Bits, IntBox, backend
from fastregion.regions.masks import to_numpy
from fastregion.regions.sizes import Size

MIN_RADIUS = 2.0
RADIUS_FRACTION = 0.02
MAX_COORDINATE = 2.0**20


class Outline(Protocol):
    """Something that can be painted into an image of a given size."""

    def paint(self, size: Size) -> Bits:
        """Return the packed rows of the mask; ValueError if it does not fit the image."""


@dataclass(frozen=True)
class BoxOutline:
    """A box on the pixel grid, half open."""

    xyxy: IntBox

    @classmethod
    def from_numbers(cls, box: Any) -> BoxOutline:
        """Round (x0, y0, x1, y1) to the nearest pixel edges, keeping at least one pixel.

        Rounding to the nearest edge keeps the pixels whose centre lies inside.
        """
        x0, y0, x1, y1 = numbers("box", box, 4)
        if not (x0 < x1 and y0 < y1):
            raise ValueError(
                f"box: must have x0 < x1 and y0 < y1, got {_show(x0, y0, x1, y1)} as "
                "(x0, y0, x1, y1); for (x, y, width, height) use xyxy_from_pycocotools"
            )
        left, right = _pixel_edges(x0, x1)
        top, bottom = _pixel_edges(y0, y1)
        if left < 0 or top < 0:
            raise ValueError(f"box: coordinates must not be negative, got {_show(x0, y0, x1, y1)}")
        return cls((left, top, right, bottom))

    def paint(self, size: Size) -> Bits:
        """Return the packed rows of the mask; ValueError if the box leaves the image."""
        height, width = size
        x0, y0, x1, y1 = self.xyxy
        if x1 > width or y1 > height:
            raise ValueError(
                f"box: must lie inside the image of width {width} and height {height}, "
                f"got {self.xyxy} as (x0, y0, x1, y1)"
            )
        row = np.zeros((1, width), np.uint8)
        row[0, x0:x1] = 1
        bits = np.zeros((height, -(-width // 64)), np.uint64)
        bits[y0:y1] = backend().pack(row)
        return bits


@dataclass(frozen=True)
class PointsOutline:
    """The union of equal discs around points.

    A point names the pixel it falls in, and its disc holds the pixels whose centres are at most
    ``radius`` away from the centre of that one. Without a radius it is 2 % of the shorter side of
    the image, and at least 2 pixels.
    """

    points: tuple[tuple[float, float], ...]
    radius: float | None

    @classmethod
    def from_numbers(cls, points: Any, radius: float | None) -> PointsOutline:
        """Check one point (x, y) or several ``[K, 2]``."""
        array = to_numpy("point", points)
        pairs = array[None] if array.ndim == 1 else array
        if array.dtype.kind == "b" or pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0:
            raise ValueError(
                f"point: must be (x, y) or a list of them, got shape {array.shape} of {array.dtype}"
            )
        _check_coordinates("point", pairs)
        for x, y in pairs.tolist():
            if x < 0 or y < 0:
                raise ValueError(f"point: coordinates must not be negative, got {_show(x, y)}")
        if radius is not None and not (math.isfinite(radius) and radius >= 0):
            raise ValueError(f"radius: must be at least 0, got {radius}")
        return cls(tuple((x, y) for x, y in pairs.tolist()), radius)

    def paint(self, size: Size) -> Bits:
        """Return the packed rows of the mask; ValueError if a point lies outside the image."""
        height, width = size
        radius = self.radius
        if radius is None:
            radius = max(MIN_RADIUS, RADIUS_FRACTION * min(size))
        bits = np.zeros((height, -(-width // 64)), np.uint64)
        for x, y in self.points:
            if not (x < width and y < height):
                raise ValueError(
                    f"point: must lie inside the image (0 <= x < {width}, 0 <= y < {height}), "
                    f"got {_show(x, y)}"
                )
            column, row = int(x), int(y)
            reach = int(min(radius, height))
            rows = np.arange(max(row - reach, 0), min(row + reach + 1, height))
            squared = (np.arange(width) - column) ** 2 + ((rows - row) ** 2)[:, None]
            disc = squared <= radius * radius
            bits[rows] |= backend().pack(disc.view(np.uint8))
        return bits


@dataclass(frozen=True)
class PolygonsOutline:
    """The union of closed polygons, each a flat tuple x0, y0, x1, y1, ... as in COCO files."""

    polygons: tuple[tuple[float, ...], ...]

    @classmethod
    def from_numbers(cls, polygons: Any) -> PolygonsOutline:
        """Check one polygon or a list of them; each is flat or ``[K, 2]``."""
        try:
            array = to_numpy("polygon", polygons)
            alone = array.ndim < 2 or (array.ndim == 2 and array.shape[1] == 2)
        except TypeError:  # polygons of different lengths make no array
            alone = not isinstance(polygons, list | tuple)
        flats = [polygons] if alone else list(polygons)
        return cls(tuple(_flat_polygon(flat) for flat in flats))

    def paint(self, size: Size) -> Bits:
        """Return the packed rows of the mask; what leaves the image is cut off, as COCO does."""
        height, width = size
        bits = np.zeros((height, -(-width // 64)), np.uint64)
        for flat in self.polygons:
            points = np.array(flat, np.float64).reshape(-1, 2)
            bits |= backend().polygon_to_bits(points, height, width)
        return bits


def numbers(name: str, values: Any, count: int) -> tuple[float, ...]:
    """Return ``count`` finite numbers from a list, tuple, array or tensor.

    Raises:
        TypeError: not numbers.
        ValueError: another count, NaN or infinity.
    """
    array = to_numpy(name, values)
    if array.dtype.kind == "b":
        raise TypeError(f"{name}: must be {count} numbers, got bool")
    if array.shape != (count,):
        raise ValueError(f"{name}: must be {count} numbers, got shape {array.shape}")
    _check_coordinates(name, array)
    return tuple(array.tolist())


def is_number(value: Any) -> bool:
    """Tell an int or float (Python's or NumPy's) from everything else; bool is no number."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _flat_polygon(polygon: Any) -> tuple[float, ...]:
    array = to_numpy("polygon", polygon)
    flat = array.ndim == 1 and array.size % 2 == 0
    pairs = array.ndim == 2 and array.shape[1] == 2
    if array.dtype.kind == "b" or not (flat or pairs) or array.size < 6:
        raise ValueError(
            "polygon: must be at least 3 points, flat (x0, y0, x1, y1, ...) or [K, 2], "
            f"got shape {array.shape} of {array.dtype}"
        )
    _check_coordinates("polygon", array)
    return tuple(array.ravel().astype(np.float64).tolist())


def _check_coordinates(name: str, array: NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: coordinates must be finite, got {array.tolist()}")
    if np.abs(array.astype(np.float64)).max(initial=0.0) > MAX_COORDINATE:
        raise ValueError(
            f"{name}: coordinates must be at most {MAX_COORDINATE:.0f} in magnitude, "
            f"got {array.tolist()}"
        )


def _pixel_edges(low: float, high: float) -> tuple[int, int]:
    first, end = math.ceil(low - 0.5), math.ceil(high - 0.5)
    if first < end:
        return first, end
    middle = math.floor((low + high) / 2)  # thinner than a pixel: the pixel that holds its middle
    return middle, middle + 1


def _show(*values: float) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
