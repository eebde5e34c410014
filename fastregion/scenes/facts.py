"""What is true of a region: facts measured from an image and a mask.

Every fact is a word or None; None means that nothing can fairly be said. A ``*_ok`` tuple lists all
words that are right, for example both neighbours of a size threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastregion.scenes.colors import COLOR_TERMS, lightness_chroma_hue, term_shares

SIZES = ("tiny", "small", "medium-sized", "large", "huge")
SIZE_LIMITS = (0.005, 0.03, 0.12, 0.35)
"""Area as a share of the image at which the next size word begins."""
PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
EDGES = ("left", "top", "right", "bottom")

SIZE_TOLERANCE = 0.10  # of the threshold
PLACE_TOLERANCE = 0.05  # of the image's width or height
SECOND_SHARE = 0.25  # a second colour covers at least this share of the region
SECOND_MARGIN = (
    0.05  # added to it before a second colour is stated: near the line silence is better
)
BACKGROUND_SHARE = 0.6  # a background colour covers at least this share of the surrounding ring

Mask = npt.NDArray[np.bool_]
Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that is known of one region; see the module for None and ``*_ok``."""

    color: str
    color_ok: tuple[str, ...]
    tone: str | None = None  # "light" or "dark"
    second: str | None = None
    second_ok: tuple[str, ...] = ()
    pattern: str | None = None
    shape: str | None = None
    hole: bool = False
    size: str
    size_ok: tuple[str, ...]
    place: str
    place_ok: tuple[str, ...]
    background: str | None = None
    background_ok: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()  # image edges that clearly cut the region
    edges_ok: tuple[str, ...] = ()  # image edges that it touches at all
    relation: tuple[str, str, str | None] | None = None  # ("inside" | "in front of", colour, shape)
    unique: str | None = None  # "the leftmost of three red circles", without the article


def finest_period(height: int, width: int) -> float:
    """Length in pixels of the finest repetition that counts as a pattern in an image."""
    return max(8.0, max(height, width) / 80)


def size_words(mask: Mask) -> tuple[str, ...]:
    """Size words that are fair for a mask ``[H, W]``, the right one first."""
    share = float(mask.mean())
    best = int(np.searchsorted(SIZE_LIMITS, share, side="right"))
    words = [SIZES[best]]
    for k, limit in enumerate(SIZE_LIMITS):
        if abs(share - limit) <= SIZE_TOLERANCE * limit:
            words.append(SIZES[k if best == k + 1 else k + 1])
    return tuple(words)


def centroid(mask: Mask) -> tuple[float, float]:
    """Mean (x, y) of the mask's pixel centres, as shares of width and height."""
    height, width = mask.shape
    rows, columns = mask.sum(axis=1), mask.sum(axis=0)
    total = rows.sum()
    x = float(columns @ (np.arange(width) + 0.5)) / total / width
    y = float(rows @ (np.arange(height) + 0.5)) / total / height
    return x, y


def place_words(mask: Mask) -> tuple[str, ...]:
    """Places that are fair for a mask, the right one first."""
    x, y = centroid(mask)
    here = (min(int(y * 3), 2), min(int(x * 3), 2))
    fair = {here}
    for dy in (-PLACE_TOLERANCE, 0, PLACE_TOLERANCE):
        for dx in (-PLACE_TOLERANCE, 0, PLACE_TOLERANCE):
            row, column = int(np.clip((y + dy) * 3, 0, 2)), int(np.clip((x + dx) * 3, 0, 2))
            fair.add((row, column))
    ordered = [here, *sorted(fair - {here})]
    return tuple(PLACES[row * 3 + column] for row, column in ordered)


def edge_contacts(mask: Mask) -> dict[str, int]:
    """Number of mask pixels on each edge of the image."""
    sides = {"left": mask[:, 0], "top": mask[0], "right": mask[:, -1], "bottom": mask[-1]}
    return {edge: int(side.sum()) for edge, side in sides.items()}


def crop_box(mask: Mask, margin: int = 0) -> tuple[int, int, int, int]:
    """Half-open box (x0, y0, x1, y1) of a mask that is not empty, grown inside the image."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return (
        max(int(xs[0]) - margin, 0),
        max(int(ys[0]) - margin, 0),
        min(int(xs[-1]) + 1 + margin, width),
        min(int(ys[-1]) + 1 + margin, height),
    )


def ring_width(mask: Mask) -> int:
    """Width in pixels of the ring around a mask in which its surroundings are judged."""
    width: int = max(3, round(0.02 * max(mask.shape)))
    return width


def grow(mask: Mask, pixels: int) -> Mask:
    """Dilates a mask by a square of ``2 * pixels + 1``."""
    value = np.pad(mask, pixels).astype(np.int32)
    size = 2 * pixels + 1
    for axis in (0, 1):  # a window sum is the difference of two running sums
        total = np.cumsum(value, axis=axis, dtype=np.int32)
        total = np.insert(total, 0, 0, axis=axis)
        count = total.shape[axis]
        ahead = np.take(total, np.arange(size, count), axis=axis)
        behind = np.take(total, np.arange(count - size), axis=axis)
        value = ((ahead - behind) > 0).astype(np.int32)
    return value.astype(bool)


def color_facts(image: Rgb, mask: Mask) -> dict[str, Any]:
    """Main colour, its tone and second colour, as keyword arguments of :class:`Facts`."""
    pixels = image[mask]
    named, fair = term_shares(pixels)
    order = np.argsort(-named)
    first, second = int(order[0]), int(order[1])
    # Right is the most frequent name, what is fair for most pixels, and a runner-up about as
    # frequent.
    color_ok = [
        term
        for k, term in enumerate(COLOR_TERMS)
        if k == first or fair[k] >= 0.5 or named[k] >= max(0.3, 0.8 * named[first])
    ]
    second_ok = [
        term for k, term in enumerate(COLOR_TERMS) if k != first and fair[k] >= 0.8 * SECOND_SHARE
    ]
    tone = None
    name = COLOR_TERMS[first]
    if name in ("gray", "green", "blue", "purple", "red", "orange", "brown"):
        lightness = lightness_chroma_hue(pixels.reshape(-1, 3).mean(axis=0))[0]
        if lightness > 0.8 and name not in ("red", "orange", "brown"):
            tone = "light"
        elif lightness < 0.4 and name in ("gray", "green", "blue", "purple", "red"):
            tone = "dark"
    return {
        "color": name,
        "color_ok": tuple(color_ok),
        "tone": tone,
        "second": (COLOR_TERMS[second] if named[second] >= SECOND_SHARE + SECOND_MARGIN else None),
        "second_ok": tuple(second_ok),
    }


def background_facts(image: Rgb, mask: Mask) -> dict[str, Any]:
    """Colour of the ring around a region, as keyword arguments of :class:`Facts`."""
    margin = ring_width(mask)
    x0, y0, x1, y1 = crop_box(mask, margin)
    inner = mask[y0:y1, x0:x1]
    ring = grow(inner, margin) & ~inner
    if ring.sum() < 12:
        return {}
    named, fair = term_shares(image[y0:y1, x0:x1][ring])
    best = int(named.argmax())
    clear = named[best] >= BACKGROUND_SHARE + 0.08 and fair[best] >= BACKGROUND_SHARE
    fair_words = tuple(
        term for k, term in enumerate(COLOR_TERMS) if fair[k] >= BACKGROUND_SHARE - 0.1
    )
    return {
        "background": COLOR_TERMS[best] if clear else None,
        "background_ok": fair_words,
    }


def geometry_facts(mask: Mask) -> dict[str, Any]:
    """Size, place and cut edges of a region, as keyword arguments of :class:`Facts`."""
    contacts = edge_contacts(mask)
    clear = max(4.0, 0.12 * float(np.sqrt(mask.sum())))
    sizes, places = size_words(mask), place_words(mask)
    return {
        "size": sizes[0],
        "size_ok": sizes,
        "place": places[0],
        "place_ok": places,
        "edges": tuple(edge for edge in EDGES if contacts[edge] >= clear),
        "edges_ok": tuple(edge for edge in EDGES if contacts[edge] > 0),
    }


def measure(image: Rgb, mask: Mask) -> Facts:
    """Measures what pixels and mask alone decide; pattern, shape and relations stay unknown.

    Args:
        image: ``[H, W, 3]`` uint8.
        mask: ``[H, W]`` bool with at least one pixel set.

    Raises:
        ValueError: the mask is empty or has another size than the image.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"mask: expected shape {image.shape[:2]} to match the image, got {mask.shape}"
        )
    if not mask.any():
        raise ValueError("mask: expected at least one pixel set, got an empty mask")
    return Facts(
        **color_facts(image, mask), **background_facts(image, mask), **geometry_facts(mask)
    )
