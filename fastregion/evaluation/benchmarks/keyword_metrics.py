"""Semantic similarity and semantic IoU of a word or phrase and a category's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastregion.evaluation.benchmarks.base import Scores

__all__ = ["keyword_scores"]

_IOU, _SIMILARITY = "semantic IoU", "semantic similarity"


def keyword_scores(
    predictions: Mapping[str, str],
    categories: Mapping[str, str],
    *,
    variant: str,
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
    """
    from fastregion.evaluation.metrics.similarity import semantic_iou, sentence_similarity  # type: ignore[import-untyped, unused-ignore]

    told, ids = list(notes), list(predictions)
    if not ids:
        return Scores(table={}, notes=tuple(told))
    columns = {
        _IOU: [semantic_iou(predictions[key], categories[key], variant=variant) for key in ids]
    }
    if encoder is None:
        told.append(f"{_SIMILARITY} is left out: give the folder of a sentence encoder as encoder")
    else:
        columns[_SIMILARITY] = sentence_similarity(
            [predictions[key] for key in ids], [categories[key] for key in ids], encoder
        )
    items = {
        key: {name: 100 * values[place] for name, values in columns.items()}
        for place, key in enumerate(ids)
    }
    return Scores(
        table={name: 100 * sum(values) / len(ids) for name, values in columns.items()},
        items=items,
        notes=tuple(told),
        counts=dict.fromkeys(columns, len(ids)),
        failures=tuple(sorted(items, key=lambda key: items[key][_IOU])),
    )
