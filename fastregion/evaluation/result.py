"""What an evaluation came to: its table, how sure that is, and all that was said of each item."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, TypeAlias

from fastregion.evaluation.benchmarks.base import Item, Prediction, Scores
from fastregion.evaluation.intervals import bootstrap
from fastregion.evaluation.judging import Judged
from fastregion.evaluation.predictions import Predictions
from fastregion.evaluation.row_file import write_whole
from fastregion.json_files import read_json_object

__all__ = [
    "SCORES",
    "Entry",
    "ItemResult",
    "Prices",
    "Result",
    "item_numbers",
    "make_result",
    "read_result",
]

Prices: TypeAlias = tuple[float, float]
"""Of a million tokens of prompts and of answers."""
SCORES = "scores.json"
_MAX_BYTES = 1 << 30
_SAME = 1e-9  # a mean of item numbers that is off by more is not what the entry is


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A number of the table.

    Attributes:
        value: in the units of the benchmark; the mean over repeats of the judge.
        count: how many items it rests on, where that is told.
        low: lower end of its 95 % interval over items; None where it is no mean of items.
        high: upper end.
        spread: standard deviation over repeats of the judge; None for one.
        higher_is_better: whether 0 is the worst value; if not, it is the best.
    """

    value: float
    count: int | None = None
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class ItemResult:
    """Everything about one item.

    Attributes:
        group: what it is reported under.
        text: what the model said; None where it said nothing.
        answers: the judge's, by name of the call, one a repeat.
        numbers: the item's own, of the first repeat.
    """

    group: str
    text: str | None
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of an evaluation.

    Attributes:
        header: what was evaluated and how: benchmark, version, settings, model, judge, template.
        table: the numbers.
        notes: what a reader must know.
        missing: items that the model said nothing about, and why.
        unjudged: items without all answers of the judge, and why; not in the table.
        unreadable: (item, call) of answers that could not be read.
        usage: tokens and requests of the judge, and their ``cost`` where prices were given.
        model_usage: the same of a model behind an endpoint.
        failures: ids of the items that deserve a look, the worst first.
        items: by id.
    """

    header: Mapping[str, Any]
    table: Mapping[str, Entry]
    notes: Sequence[str] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    unjudged: Mapping[str, str] = field(default_factory=dict)
    unreadable: Sequence[Sequence[str]] = ()
    usage: Mapping[str, float] = field(default_factory=dict)
    model_usage: Mapping[str, float] = field(default_factory=dict)
    failures: Sequence[str] = ()
    items: Mapping[str, ItemResult] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    def save(self, folder: Path) -> None:
        """Write ``scores.json``."""
        write_whole(folder / SCORES, json.dumps(self.to_json(), indent=1) + "\n")


def read_result(folder: Path, argument: str) -> Result:
    """Read what :meth:`Result.save` wrote.

    Args:
        folder: of a run.
        argument: what messages begin with.

    Raises:
        FileNotFoundError, ValueError: there is no such file in it, or another one.
    """
    file = folder / SCORES
    values = read_json_object(file, _MAX_BYTES, argument)
    try:
        table = {name: Entry(**entry) for name, entry in values.pop("table").items()}
        items = {name: ItemResult(**item) for name, item in values.pop("items").items()}
        return Result(table=table, items=items, **values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{argument}: {str(file)!r} holds no scores ({error!r})") from None


def make_result(
    header: Mapping[str, Any],
    items: Sequence[Item],
    predictions: Predictions,
    judged: Judged,
    scores: Sequence[Scores],
    prices: Prices | None = None,
    model_prices: Prices | None = None,
) -> Result:
    """Put together what the steps gave.

    Args:
        header: what was evaluated.
        items: all that were asked for.
        predictions: of the model.
        judged: by the judge.
        scores: one for each repeat of the judge.
        prices: of the judge.
        model_prices: of the model.
    """
    first = scores[0]
    table = {}
    for name in first.table:
        values = [each.table[name] for each in scores if name in each.table]
        interval = _interval(name, fmean(values), scores)
        table[name] = Entry(
            value=fmean(values),
            count=first.counts.get(name),
            low=interval[0],
            high=interval[1],
            spread=pstdev(values) if len(scores) > 1 else None,
            higher_is_better=name not in first.lower_is_better,
        )
    said_by_call: dict[str, dict[str, list[str]]] = {}
    for answers in judged.answers:
        for (item, call), text in answers.items():
            said_by_call.setdefault(item, {}).setdefault(call, []).append(text)
    return Result(
        header=header,
        table=table,
        notes=list(first.notes),
        missing=predictions.missing,
        unjudged=judged.missing,
        unreadable=[list(pair) for pair in judged.unreadable],
        usage=_with_cost(judged.usage, prices),
        model_usage=_with_cost(predictions.usage, model_prices),
        failures=list(first.failures),
        items={
            item.id: ItemResult(
                group=item.group,
                text=_text(predictions.found.get(item.id)),
                answers=said_by_call.get(item.id, {}),
                numbers=first.items.get(item.id, {}),
            )
            for item in items
        },
    )


def _with_cost(usage: Mapping[str, int], prices: Prices | None) -> dict[str, float]:
    if prices is None or not usage:
        return dict(usage)
    tokens = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    return {**usage, "cost": sum(n * price for n, price in zip(tokens, prices, strict=True)) / 1e6}


def _text(prediction: Prediction | None) -> str | None:
    return None if prediction is None else prediction.text


def item_numbers(name: str, items: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The items' own numbers of a table entry."""
    return {
        item: float(numbers[name])
        for item, numbers in items.items()
        if isinstance(numbers.get(name), (bool, int, float))
    }


def _interval(
    name: str, value: float, scores: Sequence[Scores]
) -> tuple[float, float] | tuple[None, None]:
    """The interval of an entry that is a mean of item numbers; nothing for any other."""
    by_repeat = [item_numbers(name, each.items) for each in scores]
    numbers = [
        fmean(found[item] for found in by_repeat)
        for item in by_repeat[0]
        if all(item in found for found in by_repeat)
    ]
    if not numbers or not math.isclose(fmean(numbers), value, rel_tol=_SAME, abs_tol=_SAME):
        return None, None
    interval = bootstrap(numbers)
    return interval.low, interval.high
