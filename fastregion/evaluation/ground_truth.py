"""What may truthfully be said of a region.

Colours, size, place, cut edges and the background follow from pixels and mask by the definitions of
:mod:`fastregion.scenes.facts`; pattern, shape, hole and neighbours cannot be measured that way and
come from whoever drew or annotated the region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fastregion.scenes import Scene
from fastregion.scenes.colors import COLOR_TERMS, fair_terms
from fastregion.scenes.facts import (
    BACKGROUND_SHARE,
    SECOND_SHARE,
    centroid,
    crop_box,
    grow,
    place_words,
    ring_width,
    size_words,
)

Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]

SHARE_TOLERANCE = 0.9
"""A share of pixels may fall short of its threshold by this factor before a statement is wrong."""
MAIN_SHARE = 0.4
"""A region where no term is fair for this share of the pixels has no main colour to score."""
MAIN_MARGIN = 0.1
"""Terms within this share of the most frequent one, or fair for half the pixels, are right too."""
_MIN_RING = 12  # pixels; with fewer nothing can be said of the surroundings
_EDGE_REACH = 2  # pixels between a mask and the edge it may fairly be said to touch


@dataclass(frozen=True, kw_only=True)
class Neighbor:
    """Another region that a region touches, hides or lies in.

    Attributes:
        relations: What may be said: "inside", "in front of", "behind", "overlapping".
        colors: Colour terms that fit the other region; None when not known.
        shapes: Shape words that fit the other region; None when not known.
    """

    relations: frozenset[str]
    colors: frozenset[str] | None = None
    shapes: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True)
class RegionTruth:
    """The words that are right for one region.

    None means not known: nothing that is said about it is wrong.

    Attributes:
        colors: Terms that are right as the main colour.
        color_shares: Share of the region's pixels for each set of fair terms, the terms joined by
            spaces.
        second_colors: Terms that are right as a second colour whatever they cover, for example the
            paint of dots.
        patterns: Right pattern words.
        shapes: Right shape words.
        hole: Whether the region has a hole.
        sizes: Right size words: two within the tolerance of a threshold.
        places: Right places: several within the tolerance of a third line.
        backgrounds: Terms that are right for the background.
        cut_edges: Edges of the image that the region may be said to be cut off by.
        neighbors: All regions that it may be said to lie in, on or under.
        centroid: Mean (x, y) as shares of width and height.
        area: Share of the image.
    """

    colors: frozenset[str] | None = None
    color_shares: Mapping[str, float] = field(default_factory=dict)
    second_colors: frozenset[str] = frozenset()
    patterns: frozenset[str] | None = None
    shapes: frozenset[str] | None = None
    hole: bool | None = None
    sizes: frozenset[str] | None = None
    places: frozenset[str] | None = None
    backgrounds: frozenset[str] | None = None
    cut_edges: frozenset[str] | None = None
    neighbors: tuple[Neighbor, ...] | None = None
    centroid: tuple[float, float]
    area: float

    def share(self, term: str, *, without: str | None = None) -> float:
        """Share of the pixels for which ``term`` is fair, and ``without`` is not."""
        return sum(
            share
            for terms, share in self.color_shares.items()
            if term in terms.split() and without not in terms.split()
        )

    def fits_color(self, term: str) -> bool:
        """Whether ``term`` is fair for a quarter of the region (within the tolerance)."""
        if self.colors is None or term in self.colors:
            return True
        return self.share(term) >= SECOND_SHARE * SHARE_TOLERANCE

    def fits_second_color(self, term: str, main: str) -> bool:
        """Whether ``term`` is fair for a second quarter of the region besides ``main``."""
        if self.colors is None or term in self.second_colors:
            return True
        quarter = SECOND_SHARE * SHARE_TOLERANCE
        if self.share(term) < quarter:
            return False
        # One colour between two terms is no second colour: some pixels must tell the two apart.
        return (
            self.share(term, without=main) >= quarter or self.share(main, without=term) >= quarter
        )


def measure_truth(image: Image, mask: Mask) -> RegionTruth:
    """Measures what pixels and mask decide.

    Args:
        image: ``[H, W, 3]`` uint8.
        mask: ``[H, W]`` bool with at least one pixel set.

    Returns:
        The truth with pattern, shape, hole and neighbours unknown.

    Raises:
        ValueError: the mask is empty or has another size than the image.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"mask: expected shape {image.shape[:2]} to match the image, got {mask.shape}"
        )
    if not mask.any():
        raise ValueError("mask: expected at least one pixel set, got an empty mask")
    shares = _color_shares(image[mask])
    near = 1 + _EDGE_REACH
    strips = {
        "left": mask[:, :near],
        "top": mask[:near],
        "right": mask[:, -near:],
        "bottom": mask[-near:],
    }
    return RegionTruth(
        colors=_main_colors(shares),
        color_shares=shares,
        sizes=frozenset(size_words(mask)),
        places=frozenset(place_words(mask)),
        backgrounds=_backgrounds(image, mask),
        cut_edges=frozenset(edge for edge, strip in strips.items() if strip.any()),
        centroid=centroid(mask),
        area=float(mask.mean()),
    )


def scene_truths(scene: Scene) -> list[RegionTruth]:
    """The truth of every region of a rendered scene, in its order."""
    truths = []
    for region in scene.regions:
        facts = region.facts
        shape = facts.shape
        shapes = None if shape is None else frozenset((shape,))
        if shape == "elongated" and is_straight(region.mask):
            shapes = frozenset(("elongated", "rectangular"))
        # A hole is drawn into whole outlines only, and a ring may be said to have one.
        hole = True if facts.hole else None if shape in (None, "ring-shaped") else False
        truths.append(
            replace(
                measure_truth(scene.image, region.mask),
                patterns=None if facts.pattern is None else frozenset((facts.pattern,)),
                shapes=shapes,
                hole=hole,
            )
        )
    masks = [region.mask for region in scene.regions]
    for k, region in enumerate(scene.regions):
        neighbors = _neighbors(masks, truths, k)
        if region.facts.relation is not None:
            kind, color, shape = region.facts.relation
            neighbors.append(
                Neighbor(
                    relations=frozenset((kind, "in front of", "overlapping")),
                    colors=frozenset((color,)),
                    shapes=None if shape is None else frozenset((shape,)),
                )
            )
        truths[k] = replace(truths[k], neighbors=tuple(neighbors))
    return truths


def is_straight(mask: Mask) -> bool:
    """Whether a mask fills the box along its principal axes, as a straight bar does."""
    points = np.argwhere(mask).astype(np.float64)
    points -= points.mean(axis=0)
    _, axes = np.linalg.eigh(points.T @ points)
    extent = np.ptp(points @ axes, axis=0) + 1.0
    return bool(mask.sum() >= 0.8 * extent.prod())


def _color_shares(pixels: npt.NDArray[np.uint8]) -> dict[str, float]:
    packed = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    values, counts = np.unique(packed, return_counts=True)
    colors = np.stack([values >> 16, values >> 8 & 255, values & 255], axis=-1)
    bits = fair_terms(colors) @ (1 << np.arange(len(COLOR_TERMS)))
    shares: dict[str, float] = {}
    for bit_set in np.unique(bits):
        terms = " ".join(term for k, term in enumerate(COLOR_TERMS) if bit_set >> k & 1)
        shares[terms] = float(counts[bits == bit_set].sum()) / len(pixels)
    return shares


def _term_shares(shares: Mapping[str, float]) -> dict[str, float]:
    return {
        term: sum(share for terms, share in shares.items() if term in terms.split())
        for term in COLOR_TERMS
    }


def _main_colors(shares: Mapping[str, float]) -> frozenset[str] | None:
    by_term = _term_shares(shares)
    best = max(by_term.values())
    if best < MAIN_SHARE:
        return None
    enough = min(0.5, best - MAIN_MARGIN)
    return frozenset(term for term, share in by_term.items() if share >= enough)


def ring_around(mask: Mask) -> Mask:
    """The pixels around a mask, as wide as :func:`fastregion.scenes.facts.ring_width` says."""
    margin = ring_width(mask)
    x0, y0, x1, y1 = crop_box(mask, margin)
    ring = np.zeros_like(mask)
    inner = mask[y0:y1, x0:x1]
    ring[y0:y1, x0:x1] = grow(inner, margin) & ~inner
    return ring


def _backgrounds(image: Image, mask: Mask) -> frozenset[str] | None:
    ring = ring_around(mask)
    if ring.sum() < _MIN_RING:
        return None
    by_term = _term_shares(_color_shares(image[ring]))
    if max(by_term.values()) < BACKGROUND_SHARE:
        return None
    enough = BACKGROUND_SHARE * SHARE_TOLERANCE
    return frozenset(term for term, share in by_term.items() if share >= enough)


def _neighbors(masks: Sequence[Mask], truths: Sequence[RegionTruth], index: int) -> list[Neighbor]:
    """Regions that one touches; which of two is in front, their visible masks do not tell."""
    ring = ring_around(masks[index])
    total = max(int(ring.sum()), 1)
    result = []
    for k, other in enumerate(masks):
        if k == index:
            continue
        share = int((ring & other).sum()) / total
        if share > 0 or (masks[index] & other).any():
            relations = {"in front of", "behind", "overlapping"}
            if share >= 0.8 or not (masks[index] & ~other).any():
                relations.add("inside")
            truth = truths[k]
            colors = None
            if truth.colors is not None:
                colors = frozenset(term for term in COLOR_TERMS if truth.fits_color(term))
            result.append(
                Neighbor(relations=frozenset(relations), colors=colors, shapes=truth.shapes)
            )
    return result
