"""Open-vocabulary names: sentence similarity and semantic IoU (Osprey; VideoRefer's variant).

The two variants normalise names differently, and differ for names of parts such as "lamp:shade".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from fastregion.evaluation.metrics.common import MetricResult
from fastregion.evaluation.metrics.encoder import TextEncoder

__all__ = ["Variant", "normalize_names", "semantic_iou", "sentence_similarity"]

Variant = Literal["osprey", "videorefer"]
_STOP = "</s>"


def normalize_names(prediction: str, category: str, variant: Variant) -> tuple[str, str]:
    """What of a prediction and a category is compared.

    Raises:
        ValueError: an unknown variant.
    """
    return _variant(variant)(prediction, category)


def _osprey(prediction: str, category: str) -> tuple[str, str]:
    prediction = prediction.strip().removesuffix(_STOP).strip()
    if ":" in prediction:
        prediction = prediction.split(":")[1]  # "lamp:shade" is a shade
    return re.sub("[.:,]", " ", prediction), re.sub("[_:]", " ", category)


def _videorefer(prediction: str, category: str) -> tuple[str, str]:
    one, other = (re.sub("[_:,.()]", " ", text).strip().lower() for text in (prediction, category))
    return one, other


def _variant(variant: str) -> Callable[[str, str], tuple[str, str]]:
    known = {"osprey": _osprey, "videorefer": _videorefer}
    if variant not in known:
        raise ValueError(f"variant: expected one of {sorted(known)}, got {variant!r}")
    return known[variant]


def semantic_iou(
    predictions: Sequence[str], categories: Sequence[str], variant: Variant = "osprey"
) -> MetricResult:
    """|W_p and W_c| / |W_p or W_c| over sets of lower-case words; the corpus has the mean.

    Raises:
        ValueError: an unknown variant, or nothing to compare.
    """
    normalize = _variant(variant)
    _check(predictions)
    items = []
    for prediction, category in zip(predictions, categories, strict=True):
        one, other = (set(text.lower().split()) for text in normalize(prediction, category))
        items.append(len(one & other) / len(one | other) if one | other else 0.0)
    return MetricResult(corpus=sum(items) / len(items), items=tuple(items))


def sentence_similarity(
    predictions: Sequence[str],
    categories: Sequence[str],
    encoder: TextEncoder,
    variant: Variant = "osprey",
) -> MetricResult:
    """Cosine of sentence vectors (mean pooling); published with all-MiniLM-L6-v2.

    Raises:
        ValueError: an unknown variant, or nothing to compare.
    """
    normalize = _variant(variant)
    _check(predictions)
    pairs = [normalize(*pair) for pair in zip(predictions, categories, strict=True)]
    items = tuple(float(encoder.sentence(one) @ encoder.sentence(other)) for one, other in pairs)
    return MetricResult(corpus=sum(items) / len(items), items=items)


def _check(predictions: Sequence[str]) -> None:
    if not predictions:
        raise ValueError("predictions: expected at least one, got none")
