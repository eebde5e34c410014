"""N-grams of a corpus of tokenised captions, counted once for BLEU and CIDEr.

Words are numbered, and an n-gram is the number of its first n - 1 words and of its last one: so a
corpus is counted by sorting integers, not by hashing tuples of words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
from numpy.typing import NDArray

from fastregion.evaluation.metrics.common import check_captions

__all__ = ["MAX_ORDER", "CountedCorpus", "CountedOrder", "Integers", "count_ngrams", "lookup"]

MAX_ORDER = 4
"""Longest n-grams of BLEU and CIDEr."""

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CountedOrder:
    """The n-grams of one order; a row is one n-gram of one text.

    Attributes:
        size: how many n-grams there are; their numbers are 0 to size - 1.
        own_keys: ``[C]``, increasing: item * size + n-gram of the candidates' rows.
        own_counts: ``[C]``, how often the candidate has it.
        keys: ``[R]``, item * size + n-gram of the references' rows; increasing within a reference.
        texts: ``[R]``, which reference of the corpus, increasing.
        counts: ``[R]``, how often that reference has it.
        item_keys: ``[I]``, increasing: the distinct ``keys``.
        item_counts: ``[I]``, the largest count that a reference of the item has.
    """

    size: int
    own_keys: Integers
    own_counts: Integers
    keys: Integers
    texts: Integers
    counts: Integers
    item_keys: Integers
    item_counts: Integers


@dataclass(frozen=True, kw_only=True)
class CountedCorpus:
    """A corpus of N candidates and M references.

    Attributes:
        lengths: ``[N]``, words of each candidate.
        reference_lengths: ``[M]``, words of each reference.
        items: ``[M]``, whose reference it is, increasing; each item has at least one.
        orders: n-grams of 1 to 4 words.
    """

    lengths: Integers
    reference_lengths: Integers
    items: Integers
    orders: tuple[CountedOrder, ...]


def lookup(keys: Integers, values: Integers, wanted: Integers) -> Integers:
    """The values of wanted keys, 0 for those that are not there; keys are increasing."""
    if not len(keys):
        return np.zeros_like(wanted)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


def count_ngrams(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> CountedCorpus:
    """Count the n-grams of 1 to 4 words.

    Args:
        candidates: tokenised captions; tokens are what white space separates.
        references: for each candidate, at least one tokenised reference.

    Raises:
        ValueError: no candidates, an item without a reference, or other numbers of them.
    """
    check_captions(candidates, references)
    splits = [text.split() for text in chain(candidates, chain.from_iterable(references))]
    lengths = np.array([len(words) for words in splits])
    number = defaultdict[str, int](count().__next__)
    words = np.fromiter(map(number.__getitem__, chain.from_iterable(splits)), np.int64)
    num_items = len(candidates)
    items = np.repeat(np.arange(num_items), [len(texts) for texts in references])
    item_of = np.concatenate([np.arange(num_items), items])
    text_of = np.repeat(np.arange(len(splits)), lengths)  # of each word
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words to the end
    ngrams, size, orders = words, len(number), []
    starts = np.arange(len(words))
    for n in range(1, MAX_ORDER + 1):
        if n > 1:
            inside = left[starts] >= n
            starts = starts[inside]
            longer = ngrams[inside] * len(number) + words[starts + n - 1]
            distinct, ngrams = np.unique(longer, return_inverse=True)
            size = len(distinct)
        rows, counts = np.unique(text_of[starts] * size + ngrams, return_counts=True)
        texts, found = np.divmod(rows, max(size, 1))
        keys = item_of[texts] * size + found
        split = int(np.searchsorted(texts, num_items))
        item_keys, item_counts = _largest(keys[split:], counts[split:])
        orders.append(
            CountedOrder(
                size=size,
                own_keys=keys[:split],
                own_counts=counts[:split],
                keys=keys[split:],
                texts=texts[split:] - num_items,
                counts=counts[split:],
                item_keys=item_keys,
                item_counts=item_counts,
            )
        )
    return CountedCorpus(
        lengths=lengths[:num_items],
        reference_lengths=lengths[num_items:],
        items=items,
        orders=tuple(orders),
    )


def _largest(keys: Integers, counts: Integers) -> tuple[Integers, Integers]:
    """The distinct keys, increasing, and the largest count of each."""
    ascending = np.argsort(keys, kind="stable")
    distinct, first = np.unique(keys[ascending], return_index=True)
    return distinct, np.maximum.reduceat(counts[ascending], first) if len(first) else counts
