"""CIDEr-D (Vedantam et al., 2015), which the field's packages call CIDEr."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastregion.evaluation.metrics.common import MetricResult
from fastregion.evaluation.metrics.ngrams import (
    MAX_ORDER,
    CountedCorpus,
    CountedOrder,
    count_ngrams,
    lookup,
)

__all__ = ["cider", "cider_of_counts"]

_SIGMA = 6.0  # of the length penalty


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> MetricResult:
    """CIDEr-D with document frequencies from these references: it depends on the whole corpus.

    A corpus of one item scores 0: every n-gram of its references is in all documents.

    Args:
        candidates: tokenised captions.
        references: for each candidate, at least one tokenised reference.

    Returns:
        Values in 0..10; the corpus has the mean.

    Raises:
        ValueError: no candidates, an item without a reference, or other numbers of them.
    """
    return cider_of_counts(count_ngrams(candidates, references))


def cider_of_counts(corpus: CountedCorpus) -> MetricResult:
    """As :func:`cider`, of n-grams that are counted already."""
    logs = np.log(np.arange(1, len(corpus.lengths) + 1))
    similar = sum(_cosines(order, corpus, logs) for order in corpus.orders)  # [M]
    # The published "length" of a caption is its number of bigrams.
    own, other = (
        np.maximum(each - 1, 0) for each in (corpus.lengths[corpus.items], corpus.reference_lengths)
    )
    similar = similar * np.exp(-((own - other) ** 2) / (2 * _SIGMA**2))
    items = 10 * np.bincount(corpus.items, similar) / MAX_ORDER / np.bincount(corpus.items)
    return MetricResult(corpus=float(items.mean()), items=tuple(items.tolist()))


def _cosines(
    order: CountedOrder, corpus: CountedCorpus, logs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Clipped cosine of each reference and its candidate: ``[M]``.

    Args:
        order: the n-grams of one order.
        corpus: whose they are.
        logs: ``[N]``, the logarithms of 1 to N.
    """
    size = max(order.size, 1)
    # An n-gram counts once an item, however many of its references have it.
    frequency = np.bincount(order.item_keys % size, minlength=size)
    weight = logs[-1] - logs[np.maximum(frequency, 1) - 1]  # log(N / df), by n-gram
    own = order.own_counts * weight[order.own_keys % size]
    other = order.counts * weight[order.keys % size]
    shared = lookup(order.own_keys, order.own_counts, order.keys)
    clipped = np.minimum(shared * weight[order.keys % size], other)
    own_norm = np.sqrt(np.bincount(order.own_keys // size, own**2, len(corpus.lengths)))
    other_norm = np.sqrt(np.bincount(order.texts, other**2, len(corpus.items)))
    norms = own_norm[corpus.items] * other_norm
    dots = np.bincount(order.texts, clipped * other, len(corpus.items))
    cosines: NDArray[np.float64] = np.divide(dots, norms, out=np.zeros(len(dots)), where=norms > 0)
    return cosines
