"""N-grams of tokenised captions, and what metrics return."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["MAX_ORDER", "MetricResult", "MetricUnavailable", "ngram_counts"]

MAX_ORDER = 4
"""Longest n-grams of BLEU and CIDEr."""


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


def ngram_counts(words: list[str]) -> list[Counter[tuple[str, ...]]]:
    """For n = 1 to 4, how often each n-gram occurs."""
    return [
        Counter(zip(*(words[start:] for start in range(n)), strict=False))
        for n in range(1, MAX_ORDER + 1)
    ]
