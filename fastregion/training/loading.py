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
from fastregion.training.systems import MAKES_ROWS
from fastregion.training.task import Task

__all__ = ["checked_rows", "open_batches", "open_rows"]

_ROWS = "rows.json"  # what was found out about the rows, so that a resumed run need not look again

_NO_SOURCE = (
    "data: expected at least one source of rows, got none; "
    "give one such as data.0.format=jsonl data.0.path=train.jsonl"
)


def open_rows(recipe: Recipe, processes: Processes, folder: Path) -> Records | None:
    """The recipe's rows without the bad ones; None where the system makes its own.

    Args:
        recipe: says which.
        processes: the first of them looks at the rows, the others read what it found.
        folder: of the run.

    Raises:
        ValueError, FileNotFoundError, ImportError: as for :func:`checked_rows`; too many bad rows.
    """
    for turn in (True, False):
        if processes.is_first == turn:
            found = checked_rows(recipe, folder / _ROWS, progress=turn)
        processes.wait()
    if found is None:
        return None
    records, report = found
    report.require(recipe.max_bad_share)
    if report.bad and processes.is_first:
        warnings.warn(f"data: left out: {report.summary()}", stacklevel=2)
    return report.usable(records)


def checked_rows(
    recipe: Recipe, cache: Path | None = None, *, progress: bool = True
) -> tuple[Records, CheckReport] | None:
    """The recipe's rows, and which of them are bad; None where the system makes its own.

    Args:
        recipe: says which.
        cache: file of what is already known about them.
        progress: whether to show a bar.

    Raises:
        ValueError: no source for a system that needs one, or data of another form.
        FileNotFoundError: data that is not there.
        ImportError: a library that reads it is not installed.
    """
    if not recipe.data and recipe.system in MAKES_ROWS:
        return None
    if not recipe.data:
        raise ValueError(_NO_SOURCE)
    records = open_sources(recipe.data)
    report = check_records(records, workers=recipe.workers, cache=cache, progress=progress)
    return records, report


def open_batches(
    task: Task,
    recipe: Recipe,
    rows: Records | None,
    *,
    process: int,
    num_processes: int,
    collate: Callable[[Sequence[Any]], Any] | None = None,
) -> Batches:
    """The stream of batches of a process: the system's own, or that of the rows.

    Args:
        task: makes samples and batches.
        recipe: says how many of them to a batch.
        rows: the recipe's, if it has any.
        process: which process this is.
        num_processes: of how many.
        collate: what makes a batch of samples of rows; by default the task.

    Raises:
        ValueError: the system makes its own rows, and the recipe names some.
    """
    own = task.batches(
        Loading(
            seed=recipe.seed,
            process=process,
            num_processes=num_processes,
            num_workers=recipe.workers,
            batch_size=recipe.batch_size,
            batch_tokens=recipe.batch_tokens,
            group_by_length=recipe.group_by_length,
        )
    )
    if own is not None and rows is not None:
        raise ValueError(
            f"data: {recipe.system} makes its own rows; expected no source, got {len(recipe.data)}"
        )
    if own is not None:
        return own
    if rows is None:
        raise ValueError(_NO_SOURCE)
    return BatchLoader(
        rows,
        sample=task.sample,
        num_tokens=task.num_tokens,
        collate=collate or task.collate,
        seed=recipe.seed,
        samples_per_batch=recipe.batch_size,
        tokens_per_batch=recipe.batch_tokens,
        num_workers=recipe.workers,
        process=process,
        num_processes=num_processes,
        group_by_length=recipe.group_by_length,
    )
