"""The batches of a recipe: the system's own, or those of the recipe's rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastregion.training.batches import Batches, Loading
from fastregion.training.data import BatchLoader, CheckReport, Records, check_records, open_sources
from fastregion.training.processes import Processes
from fastregion.training.recipe import Recipe
from fastregion.training.systems import MAKES_ITS_OWN_ROWS
from fastregion.training.task import Task

__all__ = [
    "checked_rows",
    "loading_of",
    "open_batches",
    "require_rows",
    "row_batches",
    "system_batches",
]

_ROWS = "rows.json"  # what was found out about the rows, so that a resumed run need not look again

_NO_SOURCE = (
    "data: expected at least one source of rows, got none; "
    "give one such as data.0.format=jsonl data.0.path=train.jsonl"
)


def require_rows(recipe: Recipe) -> None:
    """Raise for rows that are not there, before weights are fetched and loaded for them.

    Raises:
        ValueError, FileNotFoundError, ImportError: as for :func:`checked_rows`.
    """
    if recipe.data:
        if not len(open_sources(recipe.data)):
            raise ValueError("data: has no rows")
    elif recipe.system not in MAKES_ITS_OWN_ROWS:
        raise ValueError(_NO_SOURCE)


def open_batches(task: Task, recipe: Recipe, processes: Processes, folder: Path) -> Batches:
    """The stream of batches of this process.

    Args:
        task: makes samples and batches.
        recipe: says which rows, and how many of them to a batch.
        processes: which of them this is.
        folder: of the run.

    Raises:
        ValueError: no rows, or too many bad ones.
        FileNotFoundError: data that is not there.
    """
    loading = loading_of(recipe, process=processes.index, num_processes=processes.count)
    own = system_batches(task, recipe, loading)
    if own is not None:
        return own
    for turn in (True, False):  # the first process looks at the rows, the others read what it found
        if processes.is_first == turn:
            records, report = checked_rows(recipe, folder / _ROWS, progress=turn)
        processes.wait()
    report.require(recipe.max_bad_share)
    if report.bad and processes.is_first:
        warnings.warn(f"data: left out: {report.summary()}", stacklevel=2)
    return row_batches(report.usable(records), task, loading, task.collate)


def loading_of(recipe: Recipe, *, process: int, num_processes: int) -> Loading:
    """How a recipe wants the batches of a process."""
    return Loading(
        seed=recipe.seed,
        process=process,
        num_processes=num_processes,
        num_workers=recipe.workers,
        batch_size=recipe.batch_size,
        batch_tokens=recipe.batch_tokens,
        group_by_length=recipe.group_by_length,
    )


def system_batches(task: Task, recipe: Recipe, loading: Loading) -> Batches | None:
    """The system's own stream, if it has one.

    Raises:
        ValueError: it has, and the recipe names rows.
    """
    own = task.batches(loading)
    if own is not None and recipe.data:
        raise ValueError(
            f"data: {recipe.system} makes its own rows; expected no source, got {len(recipe.data)}"
        )
    return own


def checked_rows(
    recipe: Recipe, cache: Path | None = None, *, progress: bool = True
) -> tuple[Records, CheckReport]:
    """The recipe's rows, and which of them are bad.

    Args:
        recipe: with at least one source.
        cache: file of what is already known about them.
        progress: whether to show a bar.

    Raises:
        ValueError: no source.
    """
    if not recipe.data:
        raise ValueError(_NO_SOURCE)
    records = open_sources(recipe.data)
    report = check_records(records, workers=recipe.workers, cache=cache, progress=progress)
    return records, report


def row_batches(
    records: Records, task: Task, loading: Loading, collate: Callable[[Sequence[Any]], Any]
) -> BatchLoader:
    """Batches of rows that a task makes samples of."""
    return BatchLoader(
        records,
        sample=task.sample,
        num_tokens=task.num_tokens,
        collate=collate,
        seed=loading.seed,
        samples_per_batch=loading.batch_size,
        tokens_per_batch=loading.batch_tokens,
        num_workers=loading.num_workers,
        process=loading.process,
        num_processes=loading.num_processes,
        group_by_length=loading.group_by_length,
    )
