"""What metrics take and return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["MetricResult", "MetricUnavailable", "check_captions"]


class MetricUnavailable(RuntimeError):
    """A metric that cannot be computed here; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One number of a corpus, and one of each item.

    Attributes:
        corpus: in the metric's own unit (most are in 0..1; CIDEr is in 0..10).
        items: in the order of the captions.
        notes: what a reader must know, such as a stage that was left out.
    """

    corpus: float
    items: tuple[float, ...]
    notes: tuple[str, ...] = field(default=())


def check_captions(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuse what no metric can be computed of.

    Raises:
        ValueError: no items, an item without a reference, or other numbers of candidates than of
            references.
    """
    if len(candidates) != len(references):
        raise ValueError(
            f"references: expected {len(candidates)}, one list a candidate, got {len(references)}"
        )
    if not candidates:
        raise ValueError("candidates: expected at least one caption, got none")
    for index, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"references: item {index} must be a list of captions, got {texts!r}")
