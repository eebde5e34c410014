"""CLAIR as a judge's call: how likely a candidate and its references describe the same picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastregion.evaluation.benchmarks.base import Item, JudgeCall, Scores
from fastregion.evaluation.benchmarks.caption_metrics import with_entry
from fastregion.evaluation.benchmarks.notes import listed
from fastregion.evaluation.benchmarks.wording import Wording
from fastregion.evaluation.metrics.clair import clair_message, read_clair_answer

__all__ = ["CLAIR_PART", "clair_call", "clair_readable", "with_clair"]

CLAIR_PART: Mapping[str, Sequence[str]] = {"clair": ("candidates", "references")}
"""The part of a template that holds CLAIR's wording."""

_KEY = "clair"
_ENTRY = "CLAIR"
_ATTEMPTS = 3
_OPTIONS = {"temperature": 0.0}


def clair_call(item: str, parts: Wording, candidate: str, references: Sequence[str]) -> JudgeCall:
    """One call."""
    message = clair_message([candidate], references, parts.fill("clair"))
    messages: list[Mapping[str, Any]] = [{"role": "user", "content": message}]
    return JudgeCall(item=item, key=_KEY, messages=messages, options=_OPTIONS, attempts=_ATTEMPTS)


def clair_readable(answer: str) -> bool:
    """Whether an answer holds a score."""
    return read_clair_answer(answer) is not None


def with_clair(
    scores: Scores, items: Sequence[Item], answers: Mapping[tuple[str, str], str]
) -> Scores:
    """Add the mean over the items that were judged; an answer without a score counts 0."""
    judged = [item.id for item in items if (item.id, _KEY) in answers]
    notes = list(scores.notes)
    if len(judged) < len(items):
        notes.append(f"{_ENTRY}: {len(items) - len(judged)} of {len(items)} items are not judged")
    read = {key: read_clair_answer(answers[key, _KEY]) for key in judged}
    if unread := [key for key, found in read.items() if found is None]:
        notes.append(f"{_ENTRY}: {len(unread)} answers hold no score and count 0: {listed(unread)}")
    if judged:
        values = {key: 0.0 if found is None else found.score for key, found in read.items()}
        scores = with_entry(scores, _ENTRY, sum(values.values()) / len(values), values)
    return replace(scores, notes=tuple(notes))
