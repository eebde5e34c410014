"""Every row is looked at before training starts: what is missing, empty or torn is counted.

Pictures are not decoded: a header tells whether there is one, and its size; masks are read. What
such a look cannot find is met in training, where a row that fails is replaced by another
(:mod:`fastregion.training.data.loader`).
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import starmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastregion.json_files import read_json_file
from fastregion.training.data.record import FAULTS, BadRow, Fault, Record
from fastregion.training.data.sources import Records, repeats_of
from fastregion.training.stopping import end_with_parent, ignore_signals

__all__ = ["CheckReport", "Found", "check_records"]

_CHUNK = 64  # rows a worker is given at a time
_MAX_CACHE_BYTES = 1 << 30
_LISTED = 20


class Found(NamedTuple):
    """A row that cannot be trained on.

    Attributes:
        row: its position.
        name: where it stands.
        kind: what is wrong.
        message: in detail.
    """

    row: int
    name: str
    kind: Fault
    message: str


@dataclass(frozen=True)
class CheckReport:
    """What a look at all rows has found.

    Attributes:
        num_rows: how many rows there are.
        bad: those that cannot be trained on, in their order.
    """

    num_rows: int
    bad: tuple[Found, ...]

    @cached_property
    def counts(self) -> dict[Fault, int]:
        """How many rows of each kind there are; kinds without a row are left out."""
        counted = Counter(found.kind for found in self.bad)
        return {kind: counted[kind] for kind in FAULTS if counted[kind]}

    def summary(self, listed: int = _LISTED) -> str:
        """The counts, and the first ``listed`` rows, for people."""
        if not self.bad:
            return f"{self.num_rows} rows, all of them good"
        kinds = ", ".join(f"{kind}: {count}" for kind, count in self.counts.items())
        lines = [f"{self.num_rows} rows, {len(self.bad)} of them bad ({kinds})"]
        lines += [f"  {found.name}: {found.message}" for found in self.bad[:listed]]
        if len(self.bad) > listed:
            lines.append(f"  and {len(self.bad) - listed} more")
        return "\n".join(lines)

    def require(self, max_bad_share: float = 0.01) -> None:
        """Raise ValueError if more than this share of the rows is bad, or none is good."""
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"max_bad_share: must lie in 0..1, got {max_bad_share}")
        if len(self.bad) > max_bad_share * self.num_rows or len(self.bad) == self.num_rows:
            raise ValueError(
                f"data: too many bad rows, at most {max_bad_share:.1%} may be: {self.summary()}; "
                "mend them, or raise max_bad_share"
            )

    def usable(self, records: Records) -> Records:
        """The records without the bad rows."""
        if not self.bad:
            return records
        return _Subset(records, np.setdiff1d(range(self.num_rows), [f.row for f in self.bad]))


class _Subset:
    """Some rows of records."""

    def __init__(self, records: Records, rows: NDArray[np.int64]) -> None:
        self._records, self._rows = records, rows
        self.repeats = repeats_of(records)[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        return self._records[int(self._rows[index])]

    def name(self, index: int) -> str:
        return self._records.name(int(self._rows[index]))


def check_records(
    records: Records,
    *,
    workers: int = 0,
    max_regions: int = 256,
    cache: Path | None = None,
    progress: bool = True,
) -> CheckReport:
    """Look at every row.

    Of several rows with one id, the first is good.

    Args:
        records: the rows.
        workers: processes that look; 0 looks in this one.
        max_regions: a row with more is bad.
        cache: a file in which the result is kept. It is taken from there as long as the files of
            rows have their sizes and times; whether pictures are still there is then not looked at.
        progress: show a bar.

    Raises:
        ValueError: a number out of range, or no rows.
        NotADirectoryError: the cache's folder does not exist.
    """
    if workers < 0:
        raise ValueError(f"workers: must be at least 0, got {workers}")
    if max_regions < 1:
        raise ValueError(f"max_regions: must be at least 1, got {max_regions}")
    if cache is not None and not cache.parent.is_dir():  # not after hours of looking
        raise NotADirectoryError(f"cache: no such folder: {str(cache.parent)!r}")
    if not len(records):
        raise ValueError("data: has no rows")
    stamp = getattr(records, "stamp", None)
    key = None if stamp is None else [stamp, len(records), max_regions]
    if cache is not None and key is not None and (known := _cached(cache, key)) is not None:
        return CheckReport(len(records), known)
    bad: list[Found] = []
    first: dict[str, int] = {}
    for row, row_id, found in _looked_at(records, workers, max_regions, progress):
        if found is None and row_id in first:
            twin = records.name(first[row_id])
            message = f"id: {row_id!r} is also that of {twin}"
            found = Found(row, records.name(row), "duplicate id", message)
        if found is not None:
            bad.append(found)
        else:
            first[row_id] = row
    report = CheckReport(len(records), tuple(bad))
    if cache is not None and key is not None:
        part = cache.with_name(f".{cache.name}.part")
        part.write_text(json.dumps({"key": key, "bad": report.bad}), encoding="utf-8")
        part.replace(cache)
    return report


def _cached(cache: Path, key: list[object]) -> tuple[Found, ...] | None:
    """What was found when the files were the same; None if they were not, or nobody looked."""
    try:
        content = read_json_file(cache, _MAX_CACHE_BYTES)
        return tuple(starmap(Found, content["bad"])) if content["key"] == key else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


_Seen = tuple[int, str, Found | None]  # a row, its id, and what is wrong


def _looked_at(records: Records, workers: int, max_regions: int, progress: bool) -> Iterator[_Seen]:
    """What is seen of every row, in their order."""
    chunks = [range(i, min(i + _CHUNK, len(records))) for i in range(0, len(records), _CHUNK)]
    bar = Progress(
        TextColumn("checking rows"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not progress,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=len(records))
        for seen in _mapped(records, chunks, workers, max_regions):
            bar.advance(task, len(seen))
            yield from seen


def _mapped(
    records: Records, chunks: Iterable[range], workers: int, max_regions: int
) -> Iterator[list[_Seen]]:
    if workers == 0:
        for chunk in chunks:
            yield _look(records, chunk, max_regions)
        return
    # Forked where that can be done: then the records are shared, not copied.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    with ProcessPoolExecutor(workers, context, _start, (records, max_regions)) as pool:
        yield from pool.map(_look_in_worker, chunks)


def _look(records: Records, rows: range, max_regions: int) -> list[_Seen]:
    seen: list[_Seen] = []
    for row in rows:
        row_id, found = "", None
        try:
            row_id = _look_at(records[row], max_regions)
        except BadRow as error:
            found = Found(row, records.name(row), error.kind, str(error))
        except Exception as error:  # whatever a row from outside brings about
            message = f"{type(error).__name__}: {error}"
            found = Found(row, records.name(row), "malformed row", message)
        seen.append((row, row_id, found))
    return seen


def _look_at(record: Record, max_regions: int) -> str:
    """The row's id; BadRow if it cannot be trained on."""
    if record.num_regions > max_regions:
        raise BadRow(
            f"masks: expected at most {max_regions}, got {record.num_regions}", "too many regions"
        )
    (record.image if record.size is None else record.size)()
    record.regions()
    return record.id


_shared: tuple[Records, int]  # of a worker


def _start(records: Records, max_regions: int) -> None:
    global _shared
    ignore_signals()
    end_with_parent()
    _shared = (records, max_regions)


def _look_in_worker(rows: range) -> list[_Seen]:
    records, max_regions = _shared
    return _look(records, rows, max_regions)
