"""The measured table of an evaluation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from fastregion.evaluation.caption_facts import read_caption
from fastregion.evaluation.judge import SCORED_FACTS, STATEMENTS, judge_caption
from fastregion.evaluation.metrics.retrieval import retrieves
from fastregion.evaluation.records import Record

_FACT_NAMES = {
    "color": "main colour",
    "place": "place",
    "size": "size",
    "shape": "shape",
    "pattern": "pattern",
}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A share of captions.

    Attributes:
        name: What is measured.
        value: The share in 0..1, or None where there is nothing to measure.
        count: Number of captions that were scored.
        higher_is_better: Whether 1 is the best value; if not, 0 is.
    """

    name: str
    value: float | None
    count: int
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an evaluation measured; prints as a table.

    Attributes:
        header: What was evaluated: task, version, model.
        groups: For each set of examples ("scenes", "photos") its measures.
    """

    header: dict[str, Any]
    groups: dict[str, tuple[Measure, ...]]

    def to_json(self) -> dict[str, Any]:
        """The header and all measures: ``groups[group][measure]`` has ``value`` and ``count``."""
        groups = {
            group: {measure.name: asdict(measure) for measure in measures}
            for group, measures in self.groups.items()
        }
        return {**self.header, "groups": groups}

    def __rich__(self) -> Table:
        """The table: one row for each measure, one pair of columns for each set of examples."""
        table = Table(title=f"{self.header['model']} on {self.header['task']}")
        table.add_column("measure")
        for group in self.groups:
            table.add_column(f"{group} %", justify="right")
            table.add_column("captions", justify="right")
        for rows in zip(*self.groups.values(), strict=True):
            cells = [rows[0].name]
            for measure in rows:
                value = "-" if measure.value is None else f"{100 * measure.value:.1f}"
                cells += [value, str(measure.count)]
            table.add_row(*cells)
        return table


def make_report(header: dict[str, Any], records: Iterable[Record]) -> Report:
    """Judges every caption and counts.

    Args:
        header: What was evaluated.
        records: What the captioner said.

    Returns:
        The report, with the groups in the order of their first record.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.group].append(record)
    return Report(header=header, groups={group: _measure(found) for group, found in groups.items()})


def _measure(records: Sequence[Record]) -> tuple[Measure, ...]:
    right: dict[str, list[bool]] = {fact: [] for fact in SCORED_FACTS}
    right_by_pattern: dict[str, list[bool]] = defaultdict(list)
    wrong: Counter[str] = Counter()
    any_wrong: list[bool] = []
    retrieved: list[bool] = []
    retrieved_lookalike: list[bool] = []
    told_apart: list[bool] = []
    for record in records:
        for k, caption in enumerate(record.captions):
            said = read_caption(caption)
            verdict = judge_caption(said, record.truths, k, complete=record.complete)
            for fact, ok in verdict.right.items():
                right[fact].append(ok)
            patterns = record.truths[k].patterns
            if "pattern" in verdict.right and patterns is not None and len(patterns) == 1:
                right_by_pattern[next(iter(patterns))].append(verdict.right["pattern"])
            wrong.update(verdict.wrong)
            any_wrong.append(bool(verdict.wrong))
            if len(record.captions) > 1:
                log_probs = record.log_probs[k]
                found = log_probs is not None and retrieves(log_probs, k)
                retrieved.append(found)
                if record.lookalike:
                    retrieved_lookalike.append(found)
                true_of = [
                    other
                    for other in range(len(record.captions))
                    if not judge_caption(said, record.truths, other, complete=record.complete).wrong
                ]
                told_apart.append(true_of == [k])
    total = len(any_wrong)
    recalls = [sum(found) / len(found) for found in right_by_pattern.values()]
    balanced = sum(recalls) / len(recalls) if recalls else None
    return (
        *(_share(_FACT_NAMES[fact], right[fact]) for fact in SCORED_FACTS),
        Measure(name="pattern, balanced", value=balanced, count=len(right["pattern"])),
        _share("self-retrieval", retrieved),
        _share("self-retrieval, look-alikes", retrieved_lookalike),
        _share("true of its region alone", told_apart),
        _share("any wrong statement", any_wrong, higher_is_better=False),
        *(
            Measure(
                name=f"wrong {kind}",
                value=wrong[kind] / total if total else None,
                count=total,
                higher_is_better=False,
            )
            for kind in STATEMENTS
        ),
    )


def _share(name: str, found: Sequence[bool], *, higher_is_better: bool = True) -> Measure:
    value = sum(found) / len(found) if found else None
    return Measure(name=name, value=value, count=len(found), higher_is_better=higher_is_better)
