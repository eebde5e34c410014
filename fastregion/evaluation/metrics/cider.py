"""CIDEr-D (Vedantam et al., 2015), which the field's packages call CIDEr."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain

from fastregion.evaluation.metrics.common import MAX_ORDER, MetricResult, ngram_counts

__all__ = ["cider"]

_SIGMA = 6.0  # of the length penalty

_Vector = tuple[list[dict[tuple[str, ...], float]], list[float], int]


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> MetricResult:
    """CIDEr-D with document frequencies from these references: it depends on the whole corpus.

    A corpus of one item scores 0: every n-gram of its references is in all documents.

    Args:
        candidates: tokenised captions.
        references: for each candidate, at least one tokenised reference.

    Returns:
        Values in 0..10; the corpus has the mean.
    """
    counts = [[ngram_counts(text.split()) for text in texts] for texts in references]
    # An n-gram counts once an item, however many of its references have it.
    frequency: Counter[tuple[str, ...]] = Counter()
    for orders in counts:
        frequency.update(set(chain.from_iterable(chain.from_iterable(orders))))
    log_items = math.log(len(counts)) if counts else 0.0
    weight = {ngram: log_items - math.log(count) for ngram, count in frequency.items()}

    def vector(orders: list[Counter[tuple[str, ...]]]) -> _Vector:
        """tf-idf of each order, its norm, and the published "length": the number of bigrams."""
        weighted = [
            {ngram: count * weight.get(ngram, log_items) for ngram, count in order.items()}
            for order in orders
        ]
        norms = [math.sqrt(sum(value * value for value in each.values())) for each in weighted]
        return weighted, norms, orders[1].total()

    items = []
    for candidate, orders in zip(candidates, counts, strict=True):
        own = vector(ngram_counts(candidate.split()))
        similar = sum(_similarity(own, vector(reference)) for reference in orders)
        items.append(10 * similar / MAX_ORDER / len(orders))
    return MetricResult(corpus=sum(items) / len(items), items=tuple(items))


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Sum over n of the clipped cosine, with the length penalty."""
    total = 0.0
    for own, other, norm, other_norm in zip(
        candidate[0], reference[0], candidate[1], reference[1], strict=True
    ):
        if norm and other_norm:
            clipped = sum(
                min(value, other[ngram]) * other[ngram]
                for ngram, value in own.items()
                if ngram in other
            )
            total += clipped / (norm * other_norm)
    difference = candidate[2] - reference[2]
    return total * math.exp(-(difference**2) / (2 * _SIGMA**2))
