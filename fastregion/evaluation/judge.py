"""Compares what a caption says with what is true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastregion.evaluation.caption_facts import CaptionFacts, NeighborStatement, UniqueStatement
from fastregion.evaluation.ground_truth import RegionTruth

SCORED_FACTS = ("color", "place", "size", "shape", "pattern")
"""Facts that a caption should state, in the order of the report."""
STATEMENTS = (
    *("color", "second color", "pattern", "shape", "hole", "size", "place"),
    *("background", "edge", "neighbor", "unique"),
)
"""Kinds of statements that can be wrong."""

_JUDGED_RELATIONS = ("inside", "in front of", "behind", "overlapping")
_PLACE_MARGIN = 0.01  # of the image; look-alikes closer than this share a rank
_AREA_MARGIN = 1.05  # ratio of areas below which look-alikes share a rank
# For each rank word: a number that is largest for the region that deserves it.
_RANKS: dict[str, Callable[[RegionTruth], float]] = {
    "leftmost": lambda truth: -truth.centroid[0],
    "rightmost": lambda truth: truth.centroid[0],
    "topmost": lambda truth: -truth.centroid[1],
    "bottommost": lambda truth: truth.centroid[1],
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Judgement of one caption.

    Attributes:
        right: For each scored fact, whether the caption states it rightly; facts that are not
            known, or too close to a threshold to call, are absent.
        wrong: The kinds of statements (:data:`STATEMENTS`) that contradict the truth, without
            repeats.
    """

    right: dict[str, bool]
    wrong: tuple[str, ...]


def judge_caption(
    said: CaptionFacts, truths: Sequence[RegionTruth], index: int, *, complete: bool
) -> Verdict:
    """Judges what a caption says of one region of a picture.

    Args:
        said: The facts read from the caption.
        truths: The truth of all known regions of the picture.
        index: The region that the caption is about.
        complete: Whether ``truths`` holds everything that could be counted in the picture. If not,
            claims of uniqueness are not judged.

    Returns:
        The verdict.
    """
    truth = truths[index]
    wrong = {
        "color": bool(said.colors) and not truth.fits_color(said.colors[0]),
        "second color": any(
            not truth.fits_second_color(term, said.colors[0]) for term in said.colors[1:]
        ),
        "pattern": _contradicts(said.patterns, truth.patterns)
        or (truth.patterns is not None and truth.patterns <= set(said.denied_patterns)),
        "shape": _contradicts(said.shapes, truth.shapes),
        "hole": None not in (said.hole, truth.hole) and said.hole is not truth.hole,
        "size": _contradicts((said.size,) if said.size else (), truth.sizes),
        "place": _contradicts((said.place,) if said.place else (), truth.places),
        "background": _contradicts(said.backgrounds, truth.backgrounds),
        "edge": _contradicts(said.cut_edges, truth.cut_edges),
        "neighbor": any(_false_neighbor(neighbor, truth) for neighbor in said.neighbors),
        "unique": complete
        and any(_false_unique(unique, said, truths, index) for unique in said.uniques),
    }
    right = {}
    if truth.colors is not None:
        right["color"] = bool(said.colors) and said.colors[0] in truth.colors
    for fact, stated, words, limit in (
        ("place", (said.place,) if said.place else (), truth.places, 1),
        ("size", (said.size,) if said.size else (), truth.sizes, 1),
        ("shape", said.shapes, truth.shapes, None),
        ("pattern", said.patterns, truth.patterns, None),
    ):
        # Two right sizes or places mean that the region is too close to a threshold to be scored.
        if words is not None and (limit is None or len(words) <= limit):
            right[fact] = bool(stated) and set(stated) <= words
    return Verdict(right=right, wrong=tuple(kind for kind in STATEMENTS if wrong[kind]))


def _contradicts(stated: Sequence[str], words: frozenset[str] | None) -> bool:
    return words is not None and not set(stated) <= words


def _false_neighbor(said: NeighborStatement, truth: RegionTruth) -> bool:
    if truth.neighbors is None or said.relation not in _JUDGED_RELATIONS:
        return False
    return not any(
        said.relation in neighbor.relations
        and (said.color is None or neighbor.colors is None or said.color in neighbor.colors)
        and (said.shape is None or neighbor.shapes is None or said.shape in neighbor.shapes)
        for neighbor in truth.neighbors
    )


def _false_unique(
    unique: UniqueStatement, said: CaptionFacts, truths: Sequence[RegionTruth], index: int
) -> bool:
    """Whether a claim fails for every fair way of counting the group it speaks of."""
    color = unique.color or next(iter(said.colors), None)
    shape = unique.shape or next(iter(said.shapes), None)
    words = ((color, "colors"), (shape, "shapes"), (unique.pattern, "patterns"))

    def surely_alike(truth: RegionTruth) -> bool:
        return all(getattr(truth, name) == {word} for word, name in words if word)

    def perhaps_alike(truth: RegionTruth) -> bool:
        if color and not truth.fits_color(color):
            return False
        known = ((word, getattr(truth, name)) for word, name in words[1:] if word)
        return all(right is None or word in right for word, right in known)

    if not perhaps_alike(truths[index]):
        return True
    others = [truth for k, truth in enumerate(truths) if k != index]
    sure = [truth for truth in others if surely_alike(truth)]
    most = 1 + sum(perhaps_alike(truth) for truth in others)
    count = 1 if unique.kind == "only" else unique.count
    if count is not None and not 1 + len(sure) <= count <= most:
        return True
    if unique.kind != "only" and most < 2:
        return True
    if unique.rank != 1:
        return False
    own = truths[index]
    if unique.kind == "largest":
        return any(other.area > own.area * _AREA_MARGIN for other in sure)
    if unique.kind == "smallest":
        return any(other.area * _AREA_MARGIN < own.area for other in sure)
    rank = _RANKS.get(unique.kind)
    return rank is not None and any(rank(other) > rank(own) + _PLACE_MARGIN for other in sure)
