r"""A judge's scores of a reference and of a model's answer: Ferret-Bench, MDVP-Bench."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fastregion.evaluation.benchmarks.notes import listed

__all__ = ["FAILED", "failed_note", "parse_pair", "relative_score", "without_boxes"]

FAILED = (-1.0, -1.0)
"""What a review counts as that does not begin with two scores; the published means include it."""

_BOX = re.compile(r" \[.*?\]")


def parse_pair(review: str) -> tuple[float, float]:
    """The scores on a review's first line: of the reference, and of the model's answer.

    Commas count as spaces and one space parts two fields, so that ``7,4`` is read and ``7, 4`` is
    not.

    Returns:
        The scores, or :data:`FAILED`.
    """
    fields = review.split("\n")[0].replace(",", " ").split(" ")
    try:
        return float(fields[0]), float(fields[1])
    except (IndexError, ValueError):
        return FAILED


def relative_score(pairs: Sequence[tuple[float, float]], epsilon: float = 0.0) -> float:
    """The mean of the model's scores in per cent of the mean of the reference's.

    Args:
        pairs: at least one; the means are rounded to three decimals first, as published.
        epsilon: added to the reference's mean.

    Returns:
        NaN where the reference's mean is 0, and there is no epsilon.
    """
    first, second = (round(sum(column) / len(pairs), 3) for column in zip(*pairs, strict=True))
    below = first + epsilon
    return 100 * second / below if below else float("nan")


def failed_note(pairs: Mapping[str, tuple[float, float]]) -> list[str]:
    """Which reviews could not be read, by name."""
    failed = [name for name, pair in pairs.items() if pair == FAILED]
    if not failed:
        return []
    return [
        f"{len(failed)} reviews do not begin with two scores and count as -1 and -1, as published: "
        f"{listed(failed)}"
    ]


def without_boxes(answer: str) -> str:
    """An answer without bracketed spans, each with one space before it; others stay."""
    return _BOX.sub("", answer)
