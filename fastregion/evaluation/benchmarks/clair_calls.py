"""CLAIR as a judge's call: how likely a candidate and its references describe the same picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastregion.evaluation.benchmarks.base import Item, JudgeCall, Scores
from fastregion.evaluation.benchmarks.notes import listed
from fastregion.evaluation.benchmarks.wording import Wording

__all__ = ["CLAIR_PART", "clair_call", "clair_readable", "with_clair"]

CLAIR_PART: Mapping[str, Sequence[str]] = {"clair": ("candidates", "references")}
"""The part of a template that holds CLAIR's wording."""

_KEY = "clair"
_ENTRY = "CLAIR"
_ATTEMPTS = 3
_OPTIONS = {"temperature": 0.0}


def clair_call(item: str, parts: Wording, candidate: str, references: Sequence[str]) -> JudgeCall:
    """One call; each caption is a line that begins with a dash."""
    message = parts.fill("clair", candidates=_bullets([candidate]), references=_bullets(references))
    messages: list[Mapping[str, Any]] = [{"role": "user", "content": message}]
    return JudgeCall(item=item, key=_KEY, messages=messages, options=_OPTIONS, attempts=_ATTEMPTS)


def clair_readable(answer: str) -> bool:
    """Whether an answer holds a score."""
    return _read(answer) is not None


def with_clair(
    scores: Scores, items: Sequence[Item], answers: Mapping[tuple[str, str], str]
) -> Scores:
    """Add the mean over the items that were judged; an answer without a score counts 0."""
    judged = [item.id for item in items if (item.id, _KEY) in answers]
    if len(judged) < len(items):
        note = f"{_ENTRY}: {len(items) - len(judged)} of {len(items)} items are not judged"
        scores = replace(scores, notes=(*scores.notes, note))
    if not judged:
        return scores
    read = {key: _read(answers[key, _KEY]) for key in judged}
    unread = [key for key, value in read.items() if value is None]
    if unread:
        note = f"{_ENTRY}: {len(unread)} answers hold no score and count 0: {listed(unread)}"
        scores = replace(scores, notes=(*scores.notes, note))
    values = {key: 100 * (value or 0.0) for key, value in read.items()}
    added = {key: {**scores.items.get(key, {}), _ENTRY: value} for key, value in values.items()}
    return replace(
        scores,
        table={**scores.table, _ENTRY: sum(values.values()) / len(values)},
        items={**scores.items, **added},
        counts={**scores.counts, _ENTRY: len(values)},
    )


def _read(answer: str) -> float | None:
    from fastregion.evaluation.metrics.clair import parse_clair  # type: ignore[import-untyped, unused-ignore]

    score: float | None = parse_clair(answer)
    return score


def _bullets(captions: Sequence[str]) -> str:
    return "\n".join(f"- {caption}" for caption in captions)
