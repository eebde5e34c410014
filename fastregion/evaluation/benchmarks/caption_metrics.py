"""Metrics of captions against references, as entries of a benchmark's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastregion.evaluation.benchmarks.base import Scores

__all__ = ["COCO_METRICS", "caption_scores", "with_entry"]

# The entry of a table, and the metric's name in the registry.
_REGISTERED = {
    "BLEU@1": "bleu_1",
    "BLEU@2": "bleu_2",
    "BLEU@3": "bleu_3",
    "BLEU@4": "bleu_4",
    "METEOR 1.5": "meteor",
    "METEOR (NLTK)": "meteor_nltk",
    "ROUGE-L": "rouge_l",
    "ROUGE-L (rouge_score)": "rouge_score_l",
    "CIDEr-D": "cider",
    "SPICE": "spice",
}
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
) -> Scores:
    """Compare captions with references.

    Args:
        names: of the entries.
        candidates: by item id.
        references: by item id, of the same items.
        notes: of the scores so far.

    Returns:
        Numbers in per cent, as papers print them (CIDEr too); a metric that is not available is
        left out, and the notes say what it needs.
    """
    from fastregion.evaluation.metrics.registry import compute

    scores = Scores(table={}, items={key: {} for key in candidates}, notes=tuple(notes))
    if not candidates:
        return scores
    found = compute(
        [_REGISTERED[name] for name in names],
        list(candidates.values()),
        [references[key] for key in candidates],
    )
    told = list(notes)
    for name in names:
        registered = _REGISTERED[name]
        if registered in found.unavailable:
            told.append(f"{name} is left out: {found.unavailable[registered]}")
            continue
        result = found.results[registered]
        told += [f"{name}: {note}" for note in result.notes]
        values = dict(zip(candidates, result.items, strict=True))
        scores = with_entry(scores, name, result.corpus, values)
        scores = replace(scores, failures=tuple(sorted(values, key=lambda key: values[key])))
    return replace(scores, notes=tuple(told))


def with_entry(scores: Scores, name: str, corpus: float, items: Mapping[str, float]) -> Scores:
    """Scores with one more entry, in per cent.

    Args:
        scores: so far.
        name: of the entry.
        corpus: its number, in 0..1 (CIDEr in 0..10).
        items: the same of each item, by id.
    """
    added = {key: {**scores.items.get(key, {}), name: 100 * items[key]} for key in items}
    return replace(
        scores,
        table={**scores.table, name: 100 * corpus},
        items={**scores.items, **added},
        counts={**scores.counts, name: len(items)},
    )
