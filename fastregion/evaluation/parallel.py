"""Long work piece by piece, several pieces at a time where they wait for others, with a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from rich.console import Console
from rich.progress import track

__all__ = ["each"]

_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")


def each(
    function: Callable[[_Thing], _Result],
    things: Sequence[_Thing],
    workers: int,
    title: str | None,
) -> Iterator[_Result]:
    """Call a function for each thing, in so many threads; results come as they are ready.

    With one worker everything happens in the caller's thread, in order. An error ends the whole:
    what has not begun is not begun.

    Args:
        function: called once for each thing.
        things: its arguments.
        workers: how many calls at a time, at least 1.
        title: of the progress bar on standard error, if that is a terminal; None for no bar.
    """
    console = Console(stderr=True)
    yield from track(
        _each(function, things, workers),
        title or "",
        total=len(things),
        console=console,
        disable=title is None or not console.is_terminal,  # in a log it would be empty lines
        transient=True,
    )


def _each(
    function: Callable[[_Thing], _Result], things: Sequence[_Thing], workers: int
) -> Iterator[_Result]:
    if workers == 1:
        yield from map(function, things)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        for future in as_completed([pool.submit(function, thing) for thing in things]):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
