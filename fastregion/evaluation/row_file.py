"""Rows on disk that a later run goes on with: a JSONL file that grows by whole lines.

The first line says what the rows are of; every other line is one row, an object. A run that was
killed loses what it had not finished: a line torn by that is dropped when the file is opened again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["RowFile", "read_header", "write_whole"]


class RowFile:
    """A JSONL file of rows. Several threads may add to it.

    Args:
        path: the file, made with its folder where it is not there; None keeps the rows in memory.
        header: what the rows are of, JSON-able. A file that is there already must have the same.
        key: tells rows apart; of two with the same key the later one counts.

    Attributes:
        rows: of this run and of the runs before it, by key.

    Raises:
        ValueError: the file holds rows of something else, is damaged, or is no such file. It is
            left as it was.
    """

    def __init__(
        self,
        path: Path | None,
        header: Mapping[str, Any],
        key: Callable[[Mapping[str, Any]], Hashable],
    ) -> None:
        self.rows: dict[Hashable, dict[str, Any]] = {}
        self._path, self._key, self._lock = path, key, threading.Lock()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        found = path.read_bytes() if path.exists() else b""
        start = _line(header)
        if start.startswith(found):  # new, or stopped while it wrote its first line
            path.write_bytes(start)
        else:
            self._read(path, found, header)

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Keep rows and write them at once."""
        with self._lock:
            for row in rows:
                self.rows[self._key(row)] = dict(row)
            if self._path is not None:
                with self._path.open("ab") as file:
                    file.write(b"".join(_line(row) for row in rows))

    def _read(self, path: Path, content: bytes, header: Mapping[str, Any]) -> None:
        whole, _, torn = content.rpartition(b"\n")
        lines = whole.split(b"\n")
        found = _header(path, lines[0])
        # compared as JSON, in which a tuple is a list
        if found != json.loads(_line(header)):
            raise ValueError(
                f"output: {path} holds results of {found}, expected {dict(header)}; "
                "name another folder or remove it"
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                row = json.loads(line)
                self.rows[self._key(row)] = row
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"output: {path} line {number} is damaged: {error!r}") from None
        if torn:  # the run before was stopped while it wrote
            os.truncate(path, len(whole) + 1)


def read_header(path: Path) -> dict[str, Any]:
    """The first line of a file of rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file.
    """
    with path.open("rb") as file:
        return _header(path, file.readline(1 << 20))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a stop never leaves half of it under its name.

    Halves of surrogate pairs, which the JSON of others may hold, become question marks.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8", errors="replace")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:  # no UTF-8, or no JSON
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"output: {path} is not a file of evaluation results")
    return found


def _line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values) + "\n").encode()
