"""What is counted of a caption about a region whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastregion.evaluation.caption_facts import read_caption
from fastregion.evaluation.ground_truth import RegionTruth
from fastregion.evaluation.judge import SCORED_FACTS, STATEMENTS, judge_caption

__all__ = ["BALANCED", "LOWER_IS_BETTER", "MEASURES", "PATTERN", "UNIQUE", "measure_caption"]

PATTERN = "pattern"
BALANCED = "pattern, balanced"
"""The mean over the pattern words of the share that is right: no mean of captions."""
_ANY_WRONG = "any wrong statement"
_FACT_NAMES = {
    "color": "main colour",
    "place": "place",
    "size": "size",
    "shape": "shape",
    "pattern": PATTERN,
}
_WRONG = {kind: f"wrong {kind}" for kind in STATEMENTS}

UNIQUE = "true of its region alone"
"""Not asked of a caption: one that is all right may fit another region too."""
LOWER_IS_BETTER = frozenset((_ANY_WRONG, *_WRONG.values()))
MEASURES = (
    *(_FACT_NAMES[fact] for fact in SCORED_FACTS),
    BALANCED,
    "self-retrieval",
    "self-retrieval, look-alikes",
    UNIQUE,
    _ANY_WRONG,
    *_WRONG.values(),
)
"""In the order of the report."""


def measure_caption(
    caption: str,
    truths: Sequence[RegionTruth],
    index: int,
    *,
    complete: bool,
    lookalike: bool,
    scored: bool,
    log_probs: Sequence[float] | None,
) -> Mapping[str, bool]:
    """Judge one caption.

    Args:
        caption: what was said.
        truths: what is true of each region of the picture.
        index: the region it was said of.
        complete: whether the regions are all that the picture shows.
        lookalike: whether several regions share colour and shape.
        scored: whether there are log-probabilities at all.
        log_probs: mean log-probability per token of the caption for each region; None for a caption
            without words, or a picture of one region.

    Returns:
        For each of :data:`MEASURES` that applies to it, except the balanced one, whether it holds.
    """
    said = read_caption(caption)
    verdict = judge_caption(said, truths, index, complete=complete)
    found = {_FACT_NAMES[fact]: right for fact, right in verdict.right.items()}
    found[_ANY_WRONG] = bool(verdict.wrong)
    found.update({name: kind in verdict.wrong for kind, name in _WRONG.items()})
    if len(truths) > 1:
        if scored:
            found["self-retrieval"] = retrieved = _retrieves(log_probs, index)
            if lookalike:
                found["self-retrieval, look-alikes"] = retrieved
        true_of = [
            other
            for other in range(len(truths))
            if not judge_caption(said, truths, other, complete=complete).wrong
        ]
        found[UNIQUE] = true_of == [index]
    return {name: found[name] for name in MEASURES if name in found}


def _retrieves(log_probs: Sequence[float] | None, own: int) -> bool:
    """Whether a caption is more likely for its own region than for every other one."""
    if log_probs is None:
        return False
    return all(log_probs[own] > value for k, value in enumerate(log_probs) if k != own)
