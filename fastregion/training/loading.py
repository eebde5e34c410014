"""The batches of a recipe: the system's own, or those of the recipe's rows."""

from __future__ import annotations

from pathlib import Path

from fastregion.training.batches import Batches, Loading
from fastregion.training.data import BatchLoader, CheckReport, Records, check_records, open_sources
from fastregion.training.processes import Processes
from fastregion.training.recipe import Recipe
from fastregion.training.task import Task

__all__ = ["checked_rows", "open_batches"]

ROWS = "rows.json"  # what was found out about the rows, so that a resumed run need not look again


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
    own = task.batches(
        Loading(
            seed=recipe.seed,
            process=processes.index,
            num_processes=processes.count,
            num_workers=recipe.workers,
            batch_size=recipe.batch_size,
            batch_tokens=recipe.batch_tokens,
            group_by_length=recipe.group_by_length,
        )
    )
    if own is not None:
        if recipe.data:
            raise ValueError(f"data: {recipe.system} makes its own rows, got {len(recipe.data)}")
        return own
    for turn in (True, False):  # the first process looks at the rows, the others read what it found
        if processes.is_first == turn:
            records, report = checked_rows(recipe, folder / ROWS)
        processes.wait()
    report.require(recipe.max_bad_share)
    return BatchLoader(
        report.usable(records),
        sample=task.sample,
        num_tokens=task.num_tokens,
        collate=task.collate,
        seed=recipe.seed,
        samples_per_batch=recipe.batch_size,
        tokens_per_batch=recipe.batch_tokens,
        num_workers=recipe.workers,
        process=processes.index,
        num_processes=processes.count,
        group_by_length=recipe.group_by_length,
    )


def checked_rows(recipe: Recipe, cache: Path | None = None) -> tuple[Records, CheckReport]:
    """The recipe's rows, and which of them are bad.

    Args:
        recipe: with at least one source.
        cache: file of what is already known about them.
    """
    if not recipe.data:
        raise ValueError("data: expected at least one source of rows, got none")
    records = open_sources(recipe.data)
    return records, check_records(records, workers=recipe.workers, cache=cache)
