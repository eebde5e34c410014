"""Semantic IoU and semantic similarity of a word or phrase and a category's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastregion.evaluation.benchmarks.base import Scores
from fastregion.evaluation.benchmarks.caption_metrics import with_entry

if TYPE_CHECKING:
    from fastregion.evaluation.metrics.similarity import Variant

__all__ = ["keyword_scores"]

_IOU, _SIMILARITY = "semantic IoU", "semantic similarity"


def keyword_scores(
    predictions: Mapping[str, str],
    categories: Mapping[str, str],
    *,
    variant: Variant,
    encoder: Path | None,
    notes: Sequence[str] = (),
) -> Scores:
    """Means over all objects, in per cent.

    Args:
        predictions: by item id.
        categories: by item id, of the same items.
        variant: whose way of cleaning texts: ``"osprey"`` or ``"videorefer"``.
        encoder: folder of the sentence encoder; without it, similarity is left out.
        notes: of the scores so far.

    Raises:
        MetricUnavailable: the folder holds no encoder.
    """
    from fastregion.evaluation.metrics.encoder import TextEncoder
    from fastregion.evaluation.metrics.similarity import semantic_iou, sentence_similarity

    scores = Scores(table={}, notes=tuple(notes))
    if not predictions:
        return scores
    texts = list(predictions.values()), [categories[key] for key in predictions]
    result = semantic_iou(*texts, variant=variant)
    values = dict(zip(predictions, result.items, strict=True))
    scores = with_entry(scores, _IOU, result.corpus, values)
    scores = replace(scores, failures=tuple(sorted(values, key=lambda key: values[key])))
    if encoder is None:
        note = f"{_SIMILARITY} is left out: it needs the folder of an encoder (encoder=FOLDER)"
        return replace(scores, notes=(*notes, note))
    result = sentence_similarity(*texts, TextEncoder(encoder), variant=variant)
    values = dict(zip(predictions, result.items, strict=True))
    return with_entry(scores, _SIMILARITY, result.corpus, values)
