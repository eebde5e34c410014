"""Corpus BLEU (Papineni et al., 2002) as COCO caption evaluation computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastregion.evaluation.metrics.common import MetricResult
from fastregion.evaluation.metrics.ngrams import (
    MAX_ORDER,
    CountedCorpus,
    CountedOrder,
    Integers,
    count_ngrams,
    lookup,
)

__all__ = ["bleu", "bleu_of_counts"]

_TINY, _SMALL = 1e-15, 1e-9  # of the published code: they keep 0/0 finite, and no score quite 0


def bleu(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[MetricResult, ...]:
    """BLEU@1 to BLEU@4.

    BLEU_k = BP * (prod_{n<=k} p_n)^(1/k), with BP = exp(1 - r/c) where the candidates are shorter
    than the references (c < r), and r the length of the reference that is closest to the candidate.

    Args:
        candidates: tokenised captions; tokens are what white space separates.
        references: for each candidate, at least one tokenised reference.

    Returns:
        Four results in 0..1. An item's value is the same formula on its own counts.

    Raises:
        ValueError: no candidates, an item without a reference, or other numbers of them.
    """
    return bleu_of_counts(count_ngrams(candidates, references))


def bleu_of_counts(corpus: CountedCorpus) -> tuple[MetricResult, ...]:
    """As :func:`bleu`, of n-grams that are counted already."""
    correct = np.stack([_clipped(order, corpus) for order in corpus.orders])  # [4, N]
    guess = np.maximum(corpus.lengths - np.arange(MAX_ORDER)[:, None], 0)  # [4, N]
    closest = _closest_lengths(corpus)
    items = _scores(correct, guess, corpus.lengths, closest)
    totals = _scores(*(each.sum(axis=-1) for each in (correct, guess, corpus.lengths, closest)))
    return tuple(
        MetricResult(corpus=float(total), items=tuple(values.tolist()))
        for total, values in zip(totals, items, strict=True)
    )


def _clipped(order: CountedOrder, corpus: CountedCorpus) -> Integers:
    """For each candidate, how many of its n-grams one of its references has: ``[N]``."""
    limits = lookup(order.item_keys, order.item_counts, order.own_keys)
    found = np.minimum(order.own_counts, limits)
    # Counts are whole numbers far below 2^53: exact as weights.
    clipped = np.bincount(order.own_keys // max(order.size, 1), found, len(corpus.lengths))
    return clipped.astype(np.int64)


def _closest_lengths(corpus: CountedCorpus) -> Integers:
    """Of each item, the length of the reference that is closest to the candidate's: ``[N]``."""
    differences = np.abs(corpus.reference_lengths - corpus.lengths[corpus.items])
    ascending = np.lexsort((corpus.reference_lengths, differences, corpus.items))
    _, first = np.unique(corpus.items, return_index=True)
    closest: Integers = corpus.reference_lengths[ascending[first]]
    return closest


def _scores(
    correct: Integers, guess: Integers, length: Integers, closest: Integers
) -> NDArray[np.float64]:
    """BLEU@1 to BLEU@4 of counts ``[4, ...]`` and lengths ``[...]``: ``[4, ...]``."""
    ratio = (length + _TINY) / (closest + _SMALL)
    penalty = np.exp(np.minimum(1 - 1 / ratio, 0))
    products = np.cumprod((correct + _TINY) / (guess + _SMALL), axis=0)
    orders = np.arange(1, MAX_ORDER + 1).reshape(-1, *[1] * (products.ndim - 1))
    scores: NDArray[np.float64] = products ** (1 / orders) * penalty
    return scores
