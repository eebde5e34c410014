"""Basic colour terms, judged in Oklab.

A colour is a lightness ``L`` in [0, 1], a chroma ``C`` >= 0 and a hue ``h`` in degrees. A term may
fairly be used anywhere inside its *range*; ranges overlap, and inside an overlap either term is
right. Inside its *centre* nobody argues about a term. Where several terms are fair,
:func:`name_colors` takes the one whose centre is nearest.

Oklab: Bjoern Ottosson, "A perceptual color space for image processing", 2020.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

COLOR_TERMS = (
    "black",
    "white",
    "gray",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
)
"""The eleven basic colour terms, in the order of every array of this module."""

_INF = 9.0  # larger than any lightness or chroma


@dataclass(frozen=True, kw_only=True)
class _Box:
    """An axis-aligned box in (L, C, h); hues may run past 360."""

    lightness: tuple[float, float]
    chroma: tuple[float, float]
    hue: tuple[float, float] = (0.0, 360.0)


def _box(l0: float, l1: float, c0: float, c1: float, h0: float = 0.0, h1: float = 360.0) -> _Box:
    return _Box(lightness=(l0, l1), chroma=(c0, c1), hue=(h0, h1))


# Where a term is fair; a term may have several boxes.
COLOR_RANGES: dict[str, tuple[_Box, ...]] = {
    "black": (_box(-1, 0.33, -1, 0.06), _box(-1, 0.2, -1, 0.1)),
    "white": (_box(0.86, _INF, -1, 0.05),),
    "gray": (_box(0.28, 0.9, -1, 0.045),),
    "red": (_box(0.22, 0.7, 0.10, _INF, 3, 41),),
    "orange": (_box(0.52, 0.88, 0.085, _INF, 37, 78),),
    "yellow": (_box(0.68, _INF, 0.06, _INF, 78, 118),),
    "green": (_box(0.18, _INF, 0.035, _INF, 112, 187),),
    "blue": (_box(0.13, _INF, 0.035, _INF, 188, 290),),
    "purple": (_box(0.15, 0.92, 0.045, _INF, 284, 347),),
    "pink": (_box(0.54, _INF, 0.045, _INF, 325, 391),),
    "brown": (_box(0.15, 0.66, 0.025, 0.13, 28, 95),),
}

# Where nobody argues.
COLOR_CENTERS: dict[str, _Box] = {
    "black": _box(0.0, 0.19, 0.0, 0.02),
    "white": _box(0.95, 1.0, 0.0, 0.015),
    "gray": _box(0.50, 0.76, 0.0, 0.012),
    "red": _box(0.45, 0.60, 0.17, 0.25, 22, 30),
    "orange": _box(0.67, 0.76, 0.15, 0.20, 50, 62),
    "yellow": _box(0.87, 0.96, 0.14, 0.20, 98, 110),
    "green": _box(0.40, 0.80, 0.12, 0.26, 139, 150),
    "blue": _box(0.36, 0.66, 0.13, 0.28, 250, 265),
    "purple": _box(0.36, 0.60, 0.15, 0.26, 304, 320),
    "pink": _box(0.73, 0.85, 0.10, 0.17, 350, 366),
    "brown": _box(0.34, 0.45, 0.065, 0.10, 50, 68),
}

_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def srgb_to_oklab(rgb: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Converts sRGB to Oklab.

    Args:
        rgb: ``[..., 3]`` sRGB values in 0..255 (uint8, or any number type).

    Returns:
        ``[..., 3]`` float64: L, a, b.
    """
    value = np.asarray(rgb, dtype=np.float64) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    lab: npt.NDArray[np.float64] = np.cbrt(linear @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T
    return lab


def oklab_to_srgb(lab: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Converts Oklab to sRGB.

    Args:
        lab: ``[..., 3]`` L, a, b.

    Returns:
        ``[..., 3]`` float64 sRGB in 0..255; values outside that range are colours that sRGB does
        not have.
    """
    lms = (np.asarray(lab, dtype=np.float64) @ np.linalg.inv(_LMS_TO_LAB).T) ** 3
    linear = lms @ np.linalg.inv(_RGB_TO_LMS).T
    magnitude = np.abs(linear)
    value = np.where(
        magnitude <= 0.0031308, magnitude * 12.92, 1.055 * magnitude ** (1 / 2.4) - 0.055
    )
    rgb: npt.NDArray[np.float64] = np.sign(linear) * value * 255.0
    return rgb


def lightness_chroma_hue(rgb: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Oklab lightness, chroma and hue (degrees, 0..360) of sRGB values in 0..255, ``[..., 3]``."""
    lab = srgb_to_oklab(rgb)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360.0
    return np.stack([lab[..., 0], chroma, hue], axis=-1)


def _inside(box: _Box, lch: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    lightness, chroma, hue = lch[..., 0], lch[..., 1], lch[..., 2]
    inside = (box.lightness[0] < lightness) & (lightness < box.lightness[1])
    inside &= (box.chroma[0] < chroma) & (chroma < box.chroma[1])
    start, stop = box.hue
    if stop - start < 360.0:
        inside &= (hue - start) % 360.0 <= stop - start
    return inside


def _distance_to_center(term: str, lch: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Oklab distance to the centre box, hue measured along the arc of the pixel's own chroma."""
    box = COLOR_CENTERS[term]
    lightness, chroma, hue = lch[..., 0], lch[..., 1], lch[..., 2]

    def outside(value: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.float64]:
        return np.maximum(np.maximum(low - value, value - high), 0.0)

    d_lightness = outside(lightness, *box.lightness)
    d_chroma = outside(chroma, *box.chroma)
    start, stop = box.hue
    if stop - start >= 360.0:
        return np.hypot(d_lightness, d_chroma)
    middle, half = (start + stop) / 2, (stop - start) / 2
    angle = np.maximum(np.abs((hue - middle + 180.0) % 360.0 - 180.0) - half, 0.0)
    arc = 2.0 * np.maximum(chroma, 0.02) * np.sin(np.radians(np.minimum(angle, 180.0)) / 2)
    # Hue decides a name more than lightness does: a dark blue is still blue.
    return np.sqrt((0.5 * d_lightness) ** 2 + d_chroma**2 + (2.0 * arc) ** 2)


def fair_terms(rgb: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Tells which terms are fair for each colour.

    Args:
        rgb: ``[..., 3]`` sRGB values in 0..255.

    Returns:
        ``[..., 11]`` bool in the order of :data:`COLOR_TERMS`. A colour between all ranges has no
        fair term.
    """
    lch = lightness_chroma_hue(rgb)
    fair = [
        np.logical_or.reduce([_inside(box, lch) for box in COLOR_RANGES[term]])
        for term in COLOR_TERMS
    ]
    return np.stack(fair, axis=-1)


def _name_exactly(rgb: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    lch = lightness_chroma_hue(rgb)
    distance = np.stack([_distance_to_center(term, lch) for term in COLOR_TERMS], axis=-1)
    fair = fair_terms(rgb)
    names: npt.NDArray[np.uint8] = np.argmin(
        np.where(fair, distance, distance + 10.0), axis=-1
    ).astype(np.uint8)
    return names


@functools.cache
def _tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Names and fair-term bit sets of the 64^3 colours in the middle of cells of 4^3 values."""
    axis = np.arange(64) * 4 + 1.5
    rgb = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    bits = (fair_terms(rgb) << np.arange(len(COLOR_TERMS))).sum(axis=-1).astype(np.uint16)
    return _name_exactly(rgb), bits


@functools.cache
def _members() -> npt.NDArray[np.float64]:
    """``[2048, 11]``: which terms each bit set holds."""
    sets = np.arange(1 << len(COLOR_TERMS))[:, None]
    return ((sets >> np.arange(len(COLOR_TERMS))) & 1).astype(np.float64)


def _cell(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    cell = (rgb >> 2).astype(np.int32)
    return (cell[..., 0] << 12) | (cell[..., 1] << 6) | cell[..., 2]


def name_colors(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Names every pixel.

    Args:
        rgb: ``[..., 3]`` uint8 sRGB; read through a table with cells of 4 values a channel.

    Returns:
        ``[...]`` uint8 indices into :data:`COLOR_TERMS`.
    """
    return _tables()[0].ravel()[_cell(rgb)]


def term_shares(
    rgb: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Shares of the colour terms among pixels.

    Args:
        rgb: ``[N, 3]`` uint8 pixels, N >= 1.

    Returns:
        Two ``[11]`` arrays: the share of the pixels whose *name* is the term (they add up to 1),
        and the share for which the term is *fair* (these overlap).
    """
    names, bits = (table.ravel()[_cell(rgb)] for table in _tables())
    named = np.bincount(names, minlength=len(COLOR_TERMS)) / len(rgb)
    sets = np.bincount(bits, minlength=1 << len(COLOR_TERMS)) / len(rgb)
    return named, sets @ _members()
