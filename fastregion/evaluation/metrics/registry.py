"""Caption metrics by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastregion.evaluation.metrics.bleu import bleu_of_counts
from fastregion.evaluation.metrics.cider import cider_of_counts
from fastregion.evaluation.metrics.common import MetricResult, MetricUnavailable, check_captions
from fastregion.evaluation.metrics.meteor import meteor, meteor_nltk
from fastregion.evaluation.metrics.ngrams import MAX_ORDER, count_ngrams
from fastregion.evaluation.metrics.ptb_tokenizer import tokenize
from fastregion.evaluation.metrics.rouge import rouge_l, rouge_score_l
from fastregion.evaluation.metrics.spice import spice

__all__ = ["METRICS", "Computed", "compute"]

_Texts = Sequence[str]
_Metric = Callable[[_Texts, Sequence[_Texts]], MetricResult]
_BLEU = tuple(f"bleu_{n}" for n in range(1, MAX_ORDER + 1))
_TOKENIZED: Mapping[str, _Metric] = {
    "rouge_l": rouge_l,
    "meteor": meteor,
    "meteor_nltk": meteor_nltk,
    "spice": spice,
}
_RAW: Mapping[str, _Metric] = {"rouge_score_l": rouge_score_l}
_COUNTED = frozenset([*_BLEU, "cider"])
METRICS = (*_BLEU, "cider", *_TOKENIZED, *_RAW)
"""The names."""


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What could be computed, and why the rest could not.

    Attributes:
        results: by name; unscaled, a report multiplies by 100.
        unavailable: by name, what is missing.
    """

    results: Mapping[str, MetricResult]
    unavailable: Mapping[str, str]


def compute(names: Sequence[str], candidates: _Texts, references: Sequence[_Texts]) -> Computed:
    """Metrics of raw captions, tokenised as the metric needs it.

    Args:
        names: of :data:`METRICS`.
        candidates: one caption an item.
        references: for each item, at least one.

    Raises:
        ValueError: an unknown name, no items, an item without a reference, or other numbers of
            candidates than of references.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"names: expected some of {', '.join(METRICS)}, got {unknown}")
    check_captions(candidates, references)
    results: dict[str, MetricResult] = {}
    unavailable: dict[str, str] = {}
    if any(name not in _RAW for name in names):
        tokens = tokenize(candidates)
        flat = iter(tokenize([text for texts in references for text in texts]))
        token_references = [[next(flat) for _ in texts] for texts in references]
    if _COUNTED.intersection(names):
        counts = count_ngrams(tokens, token_references)
        results.update(zip(_BLEU, bleu_of_counts(counts), strict=True))
        results["cider"] = cider_of_counts(counts)
    for name in names:
        try:
            if name in _TOKENIZED:
                results[name] = _TOKENIZED[name](tokens, token_references)
            elif name in _RAW:
                results[name] = _RAW[name](candidates, references)
        except MetricUnavailable as error:
            unavailable[name] = str(error)
    return Computed(
        results={name: results[name] for name in names if name in results},
        unavailable=unavailable,
    )
