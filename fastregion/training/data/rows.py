"""Rows as they stand in files, before anything is made of them: mappings by position.

======================================  ===========================================
path                                    rows
======================================  ===========================================
``x.jsonl``                             its lines, one JSON object each
``x.json``                              its list of objects
``x.tar``, a folder with such files     samples of webdataset shards (``tar_rows``)
a folder that HF datasets have saved    its rows (``hf_rows``)
``x.arrow``, ``x.parquet``              its rows, likewise
``owner/name`` that is no path          a dataset of the Hugging Face Hub, likewise
======================================  ===========================================
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from fastregion.images import check_input_file
from fastregion.json_files import read_json_file
from fastregion.training.data.record import BadRow

__all__ = ["JsonLines", "JsonList", "Rows"]

MAX_JSON_BYTES = 1 << 31  # of a file that is read whole; pictures may stand in it as base64
MAX_LINE_BYTES = 1 << 28
_PIECE = 1 << 20


class Rows(Protocol):
    """Mappings by position.

    Attributes:
        folder: what relative paths in a row start from.
    """

    folder: Path

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """One of them; BadRow if it cannot be read."""

    def name(self, index: int) -> str:
        """Where it stands, for messages."""


class JsonLines:
    """Lines of a JSONL file, of which only the places are kept in memory.

    Args:
        file: UTF-8; blank lines are passed over.

    Raises:
        FileNotFoundError, ValueError: no such file, or an empty one.
    """

    def __init__(self, file: Path) -> None:
        check_input_file(file, "a JSONL file", argument="data")
        self.folder, self.file = file.parent, file
        with file.open("rb") as lines:
            self._places = np.array(_line_places(lines), np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, length, _ = self._places[index].tolist()
        if length > MAX_LINE_BYTES:
            raise BadRow(f"the line is longer than {MAX_LINE_BYTES >> 20} MiB")
        with self.file.open("rb") as lines:
            lines.seek(start)
            return json_object(lines.read(length))

    def name(self, index: int) -> str:
        """Where it stands, for messages."""
        return f"{self.file.name}, line {self._places[index, 2]}"


def _line_places(lines: BinaryIO) -> array[int]:
    """(first byte, bytes, number from 1) of every line with something in it, one after the other.

    Lines are read in pieces: a file without line breaks shall not fill the memory.
    """
    places = array("q")
    start = number = 0
    while piece := lines.readline(_PIECE):
        length, blank = len(piece), not piece.strip()
        while not piece.endswith(b"\n") and (piece := lines.readline(_PIECE)):
            length, blank = length + len(piece), blank and not piece.strip()
        number += 1
        if not blank:
            places.extend((start, length, number))
        start += length
    return places


def json_object(text: bytes) -> dict[str, Any]:
    """The object that a text holds; BadRow for anything else."""
    try:
        row = json.loads(text.decode("utf-8-sig"))
    except ValueError as error:  # both bad UTF-8 and bad JSON
        raise BadRow(f"not valid JSON ({error})") from error
    except RecursionError as error:
        raise BadRow("not valid JSON (nested too deeply)") from error
    return checked_object(row)


def checked_object(row: Any) -> dict[str, Any]:
    """A row that is an object; BadRow for anything else."""
    if not isinstance(row, dict):
        raise BadRow(f"expected a JSON object, got {type(row).__name__}")
    return row


class JsonList:
    """Objects in a list that fills a JSON file.

    Args:
        file: at most 2 GiB.

    Raises:
        FileNotFoundError, ValueError: no such file, not JSON, too large, or no list.
    """

    def __init__(self, file: Path) -> None:
        self.folder, self._file = file.parent, file
        rows = read_json_file(file, MAX_JSON_BYTES, "data")
        if not isinstance(rows, list):
            raise ValueError(
                f"data: {str(file)!r}: expected a list of rows, got {type(rows).__name__}"
            )
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return checked_object(self._rows[index])

    def name(self, index: int) -> str:
        """Where it stands, for messages."""
        return f"{self._file.name}, row {index}"
