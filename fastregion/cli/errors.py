"""Errors as a user should see them: one line, and an exit code that scripts can trust."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["BAD_INPUT", "UNEXPECTED", "bad_input", "print_error", "reporting"]

UNEXPECTED, BAD_INPUT = 1, 2


class _BadInput(Exception):
    """Marks an error as the input's fault; its cause is the error."""


@contextmanager
def bad_input(option: str | None = None) -> Iterator[None]:
    """Blame the input for errors inside: for reading and checking it, not for the work.

    Args:
        option: what the user typed, to put before the message.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, NotImplementedError, ImportError) as error:
        message = str(error) or type(error).__name__
        raise _BadInput(f"{option}: {message}" if option else message) from error


@contextmanager
def reporting(debug: bool) -> Iterator[None]:
    """Turn errors inside into a line on stderr and an exit code; with ``debug``, a traceback too.

    Outside :func:`bad_input`, the package's own refusals of values are bad input still.
    """
    try:
        yield
    except (_BadInput, ValueError, NotImplementedError) as error:
        _report(error, str(error), debug)
        raise typer.Exit(BAD_INPUT) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):  # these are typer's to handle
        raise
    except Exception as error:
        hint = "" if debug else " (--debug shows where)"
        _report(error, f"unexpected {type(error).__name__}: {error}{hint}", debug)
        raise typer.Exit(UNEXPECTED) from None


def print_error(message: str) -> None:
    """One line on stderr."""
    print(f"fastregion: error: {' '.join(message.split())}", file=sys.stderr)


def _report(error: Exception, message: str, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    print_error(message)
