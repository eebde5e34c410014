"""What a reader of scores must know, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastregion.evaluation.benchmarks.base import Item, Prediction

__all__ = [
    "Published",
    "contradictions",
    "count_note",
    "judged_items",
    "listed",
    "predicted_items",
]

_MOST_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class Published:
    """Numbers that somebody printed for a model.

    Attributes:
        where: such as ``"the paper"``.
        values: as printed, by the name of the table's entry.
        scale: what the table's numbers are multiplied by in print.
        digits: behind the point.
    """

    where: str
    values: Mapping[str, float]
    scale: float = 1.0
    digits: int = 3


def contradictions(
    predictions: Mapping[str, Prediction],
    table: Mapping[str, float],
    published: Mapping[str, Sequence[Published]],
) -> list[str]:
    """Say where these answers give other numbers than were printed for their model.

    Args:
        predictions: all of one model, whose name is that of its published record.
        table: what the answers give.
        published: by model.
    """
    models = {prediction.model for prediction in predictions.values()}
    notes = []
    for model in sorted(models & published.keys()):
        for printed in published[model]:
            known = {name: value for name, value in printed.values.items() if name in table}
            ours = {name: round(printed.scale * table[name], printed.digits) for name in known}
            if ours != known:
                notes.append(
                    f"{model}: {printed.where} has {_numbers(known, printed.digits)}; "
                    f"these answers give {_numbers(ours, printed.digits)}"
                )
    return notes


def predicted_items(
    items: Sequence[Item], predictions: Mapping[str, Prediction], notes: list[str]
) -> list[Item]:
    """The items with a prediction; of the others a note is added."""
    missing = [item.id for item in items if item.id not in predictions]
    if missing:
        notes.append(
            f"{len(missing)} of {len(items)} items have no prediction and are left out: "
            f"{listed(missing)}"
        )
    return [item for item in items if item.id in predictions]


def judged_items(
    items: Sequence[Item],
    answers: Mapping[tuple[str, str], str],
    keys: Callable[[Item], Iterable[str]],
    notes: list[str],
) -> list[Item]:
    """The items of which every call (``keys``) has an answer; of the others a note is added."""
    missing = [
        item.id for item in items if any((item.id, key) not in answers for key in keys(item))
    ]
    if missing:
        notes.append(
            f"{len(missing)} of {len(items)} items lack answers of the judge and are left out: "
            f"{listed(missing)}"
        )
    left_out = set(missing)
    return [item for item in items if item.id not in left_out]


def count_note(items: Sequence[Item], published: int, what: str, notes: list[str]) -> bool:
    """Whether there are as many items as in the publication; else a note is added."""
    if len(items) != published:
        notes.append(f"scored on {len(items)} {what}; the published benchmark has {published}")
    return len(items) == published


def listed(ids: Sequence[str]) -> str:
    """The first few of them."""
    shown = ", ".join(ids[:_MOST_LISTED])
    return shown if len(ids) <= _MOST_LISTED else f"{shown}, ..."


def _numbers(values: Mapping[str, float], digits: int) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())
