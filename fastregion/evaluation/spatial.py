"""Where one region lies relative to another: what is true of two masks, and what a sentence says.

The words are "left of", "right of", "above", "below", "inside", "around", "touching" and
"overlapping".
"""

from __future__ import annotations

import re

from fastregion.evaluation.ground_truth import Mask, ring_around
from fastregion.scenes.facts import centroid, crop_box, grow

Words = frozenset[str]

_CLEAR = 0.08  # of the image's long side; regions with closer centres lie beside each other nowhere
_TILT = 0.6  # of the longer offset; a direction with this much of it may be named too
_ENCLOSED, _OPEN = 0.8, 0.3  # shares of the ring around a region that another covers: in it, not in
_OVERLAP = 0.2  # share of the smaller region that two have in common
_NEAR = 3  # pixels between regions that may be said to touch

_SAID = {
    "left of": r"\bleft\b",
    "right of": r"\bright\b",
    "above": r"\b(?:above|over|on top of|higher than)\b",
    "below": r"\b(?:below|under|underneath|beneath|lower than)\b",
    "inside": r"\b(?:inside|within|contained in|enclosed by|surrounded by)\b",
    "around": r"\b(?:around|surrounds|surrounding|contains|encloses)\b",
    "touching": r"\b(?:touching|touches|touch|adjacent|next to)\b",
    "overlapping": r"\b(?:overlapping|overlaps|overlap)\b",
}


def position_words(first: Mask, second: Mask) -> Words:
    """What may be said of where the first region lies relative to the second.

    Args:
        first: ``[H, W]`` bool, not empty.
        second: The same.

    Returns:
        The right words; none where nothing is clear.
    """
    shared = int((first & second).sum()) / min(int(first.sum()), int(second.sum()))
    if 0 < shared < _OVERLAP:
        return frozenset()  # whether a sliver is an overlap is a matter of taste
    inside, around = _enclosed(first, second), _enclosed(second, first)
    if inside is None or around is None:
        return frozenset()
    words = set()
    if shared:
        words.add("overlapping")
    if inside is not around:
        words.add("inside" if inside else "around")
    if (grow(first, _NEAR) & second).any():
        # What is drawn over a region hides a part of it, so it may be said to overlap it.
        words |= {"touching", "overlapping"}
    if not (inside or around or shared):
        words |= _directions(first, second)
    return frozenset(words)


def stated_positions(sentence: str) -> Words:
    """The words for places that a sentence uses."""
    text = sentence.lower()
    return frozenset(word for word, pattern in _SAID.items() if re.search(pattern, text))


def _enclosed(inner: Mask, outer: Mask) -> bool | None:
    """Whether one region lies in another; None where that is a matter of taste."""
    ring = ring_around(inner)
    share = int((ring & outer).sum()) / max(int(ring.sum()), 1)
    if share >= _ENCLOSED:
        return True
    return False if share < _OPEN or not _within(crop_box(inner), crop_box(outer)) else None


def _within(inner: tuple[int, ...], outer: tuple[int, ...]) -> bool:
    return all(a >= b for a, b in zip(inner[:2], outer[:2], strict=True)) and all(
        a <= b for a, b in zip(inner[2:], outer[2:], strict=True)
    )


def _directions(first: Mask, second: Mask) -> set[str]:
    """Directions in which the centres of mass, or those of the boxes, clearly differ."""
    height, width = first.shape
    words = set()
    for middle in (_center_of_mass, _center_of_box):
        (x0, y0), (x1, y1) = middle(first), middle(second)
        dx, dy = x0 - x1, y0 - y1
        longer = max(abs(dx), abs(dy))
        if longer < _CLEAR * max(height, width):
            continue
        if abs(dx) >= _TILT * longer:
            words.add("left of" if dx < 0 else "right of")
        if abs(dy) >= _TILT * longer:
            words.add("above" if dy < 0 else "below")
    return words


def _center_of_mass(mask: Mask) -> tuple[float, float]:
    height, width = mask.shape
    x, y = centroid(mask)
    return x * width, y * height


def _center_of_box(mask: Mask) -> tuple[float, float]:
    x0, y0, x1, y1 = crop_box(mask)
    return (x0 + x1) / 2, (y0 + y1) / 2
