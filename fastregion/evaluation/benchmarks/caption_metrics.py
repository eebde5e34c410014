"""Metrics of captions against references, as entries of a benchmark's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastregion.evaluation.benchmarks.base import Scores
from fastregion.evaluation.metrics.common import MetricUnavailable

__all__ = ["COCO_METRICS", "caption_scores"]

COCO_METRICS = (
    *("BLEU@1", "BLEU@2", "BLEU@3", "BLEU@4"),
    *("METEOR 1.5", "ROUGE-L", "CIDEr-D", "SPICE"),
)
"""Those of COCO's caption evaluation."""


def caption_scores(
    names: Sequence[str],
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    notes: Sequence[str] = (),
    encoder: Path | None = None,
) -> Scores:
    """Compare captions with references.

    Args:
        names: of the metrics.
        candidates: by item id.
        references: by item id, of the same items.
        notes: of the scores so far.
        encoder: folder of the encoder of BERTScore.

    Returns:
        Numbers in per cent, as papers print them (CIDEr too); a metric that is not available is
        left out, and the notes say what it needs.
    """
    from fastregion.evaluation.metrics.registry import compute  # type: ignore[import-untyped, unused-ignore]

    if not candidates:
        return Scores(table={}, notes=tuple(notes))
    ids = list(candidates)
    found = compute(
        names, [candidates[key] for key in ids], [references[key] for key in ids], encoder=encoder
    )
    table: dict[str, float] = {}
    items: dict[str, dict[str, float]] = {key: {} for key in ids}
    told = list(notes)
    for name, result in found.items():
        if isinstance(result, MetricUnavailable):
            told.append(f"{name} is left out: {result}")
            continue
        told += [f"{name}: {note}" for note in result.notes]
        table[name] = 100 * result.corpus
        for key, value in zip(ids, result.items, strict=True):
            items[key][name] = 100 * value
    return Scores(
        table=table,
        items=items,
        notes=tuple(told),
        counts=dict.fromkeys(table, len(ids)),
        failures=_worst_first(items),
    )


def _worst_first(items: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    """By the last metric that all items have."""
    shared = list(next(iter(items.values()), {}))
    return tuple(sorted(items, key=lambda key: items[key][shared[-1]])) if shared else ()
