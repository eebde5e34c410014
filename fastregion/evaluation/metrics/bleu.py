"""Corpus BLEU (Papineni et al., 2002) as COCO caption evaluation computes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import or_

from fastregion.evaluation.metrics.common import MAX_ORDER, MetricResult, ngram_counts

__all__ = ["bleu"]

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
    """
    correct = [0] * MAX_ORDER
    guess = [0] * MAX_ORDER
    length = closest_length = 0
    items: list[list[float]] = []
    for candidate, texts in zip(candidates, references, strict=True):
        words, splits = candidate.split(), [text.split() for text in texts]
        closest = min((abs(len(split) - len(words)), len(split)) for split in splits)[1]
        most = [reduce(or_, orders) for orders in zip(*map(ngram_counts, splits), strict=True)]
        found = [
            _clipped(counts, limits)
            for counts, limits in zip(ngram_counts(words), most, strict=True)
        ]
        tried = [max(0, len(words) - n) for n in range(MAX_ORDER)]
        items.append(_scores(found, tried, len(words), closest))
        correct = [total + new for total, new in zip(correct, found, strict=True)]
        guess = [total + new for total, new in zip(guess, tried, strict=True)]
        length += len(words)
        closest_length += closest
    corpus = _scores(correct, guess, length, closest_length)
    return tuple(
        MetricResult(corpus=corpus[k], items=tuple(item[k] for item in items))
        for k in range(MAX_ORDER)
    )


def _clipped(counts: Counter[tuple[str, ...]], limits: Counter[tuple[str, ...]]) -> int:
    return sum(min(count, limits[ngram]) for ngram, count in counts.items() if ngram in limits)


def _scores(correct: list[int], guess: list[int], length: int, closest: int) -> list[float]:
    ratio = (length + _TINY) / (closest + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for n, (right, all_) in enumerate(zip(correct, guess, strict=True), start=1):
        product *= (right + _TINY) / (all_ + _SMALL)
        scores.append(product ** (1 / n) * penalty)
    return scores
