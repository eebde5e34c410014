"""Results as tables in a terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fastregion.evaluation.result import Entry, Result

__all__ = ["interval", "number", "printable", "remarks", "result_table", "title"]

_LISTED = 5  # items named in a remark


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def title(result: Result) -> str:
    """What was measured on what."""
    header = result.header
    judge = f", judged by {header['judge']}" if header.get("judge") else ""
    return f"{header['model']} on {header['benchmark']} (version {header['version']}){judge}"


def result_table(result: Result) -> Group:
    """What was measured, the table, and remarks."""
    table = Table()
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    repeats = any(entry.spread is not None for entry in result.table.values())
    if repeats:
        table.add_column("spread", justify="right")
    table.add_column("items", justify="right")
    for name, entry in result.table.items():
        cells = [name, number(entry.value), interval(entry)]
        if repeats:
            cells.append("" if entry.spread is None else number(entry.spread))
        table.add_row(*map(printable, (*cells, "" if entry.count is None else str(entry.count))))
    return Group(printable(title(result)), table, *map(printable, remarks(result)))


def printable(text: str) -> Text:
    """A text for a terminal, which what models, judges and files say must not command."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))


def interval(entry: Entry) -> str:
    """The ends of an entry's interval, or nothing."""
    if entry.low is None or entry.high is None:
        return ""
    return f"{number(entry.low)} to {number(entry.high)}"


def remarks(result: Result) -> list[str]:
    """What a reader must know besides the numbers."""
    found = list(result.notes)
    for what, items in (
        ("without an answer of the model", result.missing),
        ("not judged, and not in the table", result.unjudged),
    ):
        if items:
            found.append(f"{len(items)} items {what}: {_listed(list(items))}")
            found += [f"  because: {reason}" for reason in _reasons(list(items.values()))]
    if result.unreadable:
        calls = [f"{item} ({call})" for item, call in result.unreadable]
        found.append(f"{len(calls)} answers of the judge could not be read: {_listed(calls)}")
    for whose, usage in (("model", result.model_usage), ("judge", result.usage)):
        if usage:
            counts = [f"{count} {name.replace('_', ' ')}" for name, count in usage.items()]
            found.append(f"{whose}: {', '.join(counts)}")
    return found


def _listed(names: list[str]) -> str:
    more = "" if len(names) <= _LISTED else f" and {len(names) - _LISTED} more"
    return ", ".join(names[:_LISTED]) + more


def _reasons(reasons: list[str]) -> list[str]:
    """The most frequent ones."""
    different = sorted(set(reasons), key=lambda reason: (-reasons.count(reason), reason))
    return different[:_LISTED]
