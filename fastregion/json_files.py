"""JSON files that others wrote: read whole, within a limit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["read_json_file", "read_json_lines", "read_json_object"]


def read_json_file(file: Path, max_bytes: int, argument: str | None = None) -> Any:
    """Read a file of at most ``max_bytes``.

    Args:
        file: its path.
        max_bytes: the limit.
        argument: what messages begin with, followed by the path; None where the caller puts both
            in front of them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is larger, or not JSON.
    """
    whose = "" if argument is None else f"{argument}: {str(file)!r}: "
    _check_file(file, max_bytes, whose)
    with _named_errors(whose):
        return json.loads(file.read_text(encoding="utf-8"))


def read_json_lines(file: Path, max_bytes: int, argument: str) -> list[Any]:
    """Read a file with a value in every line; empty lines are left out.

    Raises:
        FileNotFoundError, ValueError: as for :func:`read_json_file`; the message names the line.
    """
    whose = f"{argument}: {str(file)!r}: "
    _check_file(file, max_bytes, whose)
    values = []
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                with _named_errors(f"{whose}line {number}: "):
                    values.append(json.loads(line.decode("utf-8")))
    return values


def read_json_object(file: Path, max_bytes: int, argument: str) -> dict[str, Any]:
    """The same for a file of settings.

    Raises:
        FileNotFoundError, ValueError: as for :func:`read_json_file`; also another value than an
            object.
    """
    values = read_json_file(file, max_bytes, argument)
    if not isinstance(values, dict):
        raise ValueError(
            f"{argument}: {str(file)!r}: must be a JSON object, got {type(values).__name__}"
        )
    return values


def _check_file(file: Path, max_bytes: int, whose: str) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{whose}no such file")
    if file.stat().st_size > max_bytes:
        raise ValueError(f"{whose}the file is larger than {max_bytes >> 20} MiB")


@contextmanager
def _named_errors(whose: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # both bad UTF-8 and bad JSON
        raise ValueError(f"{whose}not valid JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{whose}not valid JSON (nested too deeply)") from error
