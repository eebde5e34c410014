"""Two results of one benchmark side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from fastregion.evaluation.intervals import Interval, paired_bootstrap
from fastregion.evaluation.report import number, printable, title
from fastregion.evaluation.result import Result, item_numbers

__all__ = ["Comparison", "compare"]

_SHOWN = 10  # changed items in the table


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One entry of both tables.

    Attributes:
        a: its value in the first.
        b: its value in the second.
        paired: the mean difference b - a over the items that both have, with its interval; None
            where the entry is no mean of items.
        count: how many items these are.
        higher_is_better: whether 0 is the worst value.
    """

    a: float
    b: float
    paired: Interval | None
    count: int
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Change:
    """An item of which something differs.

    Attributes:
        item: its id.
        a: what the first model said.
        b: what the second one said.
        numbers: entries of the table in which it differs, with both values.
        better: in how many of them b is better, less those in which it is worse.
    """

    item: str
    a: str | None
    b: str | None
    numbers: Mapping[str, tuple[float, float]]
    better: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs between two results.

    Attributes:
        a: name of the first.
        b: name of the second.
        differences: by entry of the tables.
        changes: items, those that got worse first.
        notes: what makes the two less comparable.
    """

    a: str
    b: str
    differences: Mapping[str, Difference]
    changes: Sequence[Change]
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return dataclasses.asdict(self)

    def __rich__(self) -> Group:
        table = Table(title="b against a")
        for column in ("measure", "a", "b", "b - a", "95 % interval", "items"):
            table.add_column(column, justify="left" if column == "measure" else "right")
        for name, found in self.differences.items():
            paired = found.paired
            table.add_row(
                printable(name),
                number(found.a),
                number(found.b),
                f"{found.b - found.a:+.4g}",
                "" if paired is None else f"{paired.low:+.4g} to {paired.high:+.4g}",
                str(found.count) if found.count else "",
            )
        lines = [f"a: {self.a}", f"b: {self.b}", *self.notes]
        worse = sum(change.better < 0 for change in self.changes)
        better = sum(change.better > 0 for change in self.changes)
        lines.append(
            f"{len(self.changes)} items changed: {better} for the better, {worse} for the worse"
        )
        for change in self.changes[:_SHOWN]:
            lines += [f"{change.item}:", f"  a: {change.a}", f"  b: {change.b}"]
        if len(self.changes) > _SHOWN:
            lines.append(f"... and {len(self.changes) - _SHOWN} more (--json has all)")
        return Group(*map(printable, lines[: 2 + len(self.notes)]), table,
                     *map(printable, lines[2 + len(self.notes) :]))  # fmt: skip


def compare(a: Result, b: Result) -> Comparison:
    """Compare two results.

    Args:
        a: one.
        b: another of the same version of the same benchmark.

    Raises:
        ValueError: they are of different benchmarks or versions, or share no item.
    """
    for name in ("benchmark", "version"):
        if a.header.get(name) != b.header.get(name):
            raise ValueError(
                f"compare: both must be of the same {name}, got {a.header.get(name)!r} and "
                f"{b.header.get(name)!r}"
            )
    common = [item for item in a.items if item in b.items]
    if not common:
        raise ValueError("compare: the two have no item in common")
    notes = []
    if len(common) < len(a.items) or len(common) < len(b.items):
        notes.append(
            f"a has {len(a.items)} items, b {len(b.items)}, {len(common)} are in both: "
            "the values are over each one's own, the paired differences over the common ones"
        )
    for name in ("settings", "judge", "template", "prompt", "options", "seed", "record"):
        if a.header.get(name) != b.header.get(name):
            notes.append(f"{name}: a has {a.header.get(name)}, b {b.header.get(name)}")
    differences = {}
    by_name: dict[str, dict[str, tuple[float, float]]] = {}
    for name, entry in a.table.items():
        if name not in b.table:
            continue
        first, second = (
            item_numbers(name, {item: result.items[item].numbers for item in common})
            for result in (a, b)
        )
        both = [item for item in common if item in first and item in second]
        by_name[name] = {item: (first[item], second[item]) for item in both}
        means = entry.low is not None and b.table[name].low is not None
        differences[name] = Difference(
            a=entry.value,
            b=b.table[name].value,
            paired=paired_bootstrap([first[i] for i in both], [second[i] for i in both])
            if means and both
            else None,
            count=len(both),
            higher_is_better=entry.higher_is_better,
        )
    changes = [_change(item, a, b, by_name, differences) for item in common]
    return Comparison(
        a=title(a),
        b=title(b),
        differences=differences,
        changes=sorted(
            (change for change in changes if change.a != change.b or change.numbers),
            key=lambda change: change.better,
        ),
        notes=notes,
    )


def _change(
    item: str,
    a: Result,
    b: Result,
    by_name: Mapping[str, Mapping[str, tuple[float, float]]],
    differences: Mapping[str, Difference],
) -> Change:
    numbers = {
        name: found[item]
        for name, found in by_name.items()
        if item in found and found[item][0] != found[item][1]
    }
    better = sum(
        1 if (second > first) == differences[name].higher_is_better else -1
        for name, (first, second) in numbers.items()
    )
    return Change(
        item=item, a=a.items[item].text, b=b.items[item].text, numbers=numbers, better=better
    )
