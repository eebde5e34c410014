"""ROUGE-L (Lin, 2004): as COCO caption evaluation computes it, and as the package rouge_score."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module

from fastregion.evaluation.metrics.common import MetricResult, MetricUnavailable, check_captions

__all__ = ["lcs_length", "rouge_l", "rouge_score_l", "stemmer"]

_BETA = 1.2  # weight of recall in the COCO variant


def lcs_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of a longest common subsequence.

    Bit-parallel (Hyyrö, 2004): bit i of ``row`` is 0 where the row of the dynamic programme steps
    up at column i, so that one row costs a few operations on one long integer.
    """
    positions: dict[str, int] = {}
    for index, word in enumerate(one):
        positions[word] = positions.get(word, 0) | 1 << index
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        matches = row & positions.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(one) - row.bit_count()


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> MetricResult:
    """ROUGE-L of COCO caption evaluation: the best precision and the best recall, each by itself.

    Args:
        candidates: tokenised captions; tokens are what single spaces separate, so that the empty
            caption has one empty token.
        references: for each candidate, at least one.

    Returns:
        F = (1 + b^2) P R / (R + b^2 P) with b = 1.2, in 0..1; the corpus has the mean.

    Raises:
        ValueError: no candidates, an item without a reference, or other numbers of them.
    """
    check_captions(candidates, references)
    items = []
    for candidate, texts in zip(candidates, references, strict=True):
        words, splits = candidate.split(" "), [text.split(" ") for text in texts]
        common = [lcs_length(split, words) for split in splits]
        precision = max(common) / len(words)
        recall = max(length / len(split) for length, split in zip(common, splits, strict=True))
        items.append(
            (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)
            if precision and recall
            else 0.0
        )
    return MetricResult(corpus=sum(items) / len(items), items=tuple(items))


def rouge_score_l(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, stem: bool = True
) -> MetricResult:
    """F1 of ROUGE-L as the package rouge_score computes it; the best reference counts.

    Args:
        candidates: captions as they are.
        references: for each candidate, at least one.
        stem: whether words of more than three characters are stemmed (Porter, with NLTK's
            extensions).

    Raises:
        MetricUnavailable: stemming without the package nltk.
        ValueError: no candidates, an item without a reference, or other numbers of them.
    """
    check_captions(candidates, references)
    shorten = stemmer() if stem else str
    items = []
    for candidate, texts in zip(candidates, references, strict=True):
        words = _words(candidate, shorten)
        items.append(max(_f1(words, _words(text, shorten)) for text in texts))
    return MetricResult(corpus=sum(items) / len(items), items=tuple(items))


@cache
def stemmer() -> Callable[[str], str]:
    """NLTK's Porter stemmer, remembering what it has stemmed.

    Raises:
        MetricUnavailable: without the package nltk.
    """
    try:
        porter = import_module("nltk.stem.porter")
    except ImportError as error:
        raise MetricUnavailable('stemming needs nltk: pip install "fastregion[eval]"') from error
    stem: Callable[[str], str] = cache(porter.PorterStemmer().stem)
    return stem


def _words(text: str, shorten: Callable[[str], str]) -> list[str]:
    return [
        shorten(word) if len(word) > 3 else word for word in re.findall("[a-z0-9]+", text.lower())
    ]


def _f1(words: list[str], reference: list[str]) -> float:
    common = lcs_length(words, reference)
    return 2 * common / (len(words) + len(reference)) if common else 0.0
