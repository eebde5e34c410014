"""Annotation files that others published, read field by field: a message names file, row and field.

The files of a benchmark lie below one folder, ``data``; where publications differ in its layout,
the first of several places is taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastregion.json_files import read_json_file, read_json_lines

if TYPE_CHECKING:
    from fastregion.evaluation.benchmarks.base import Item

__all__ = [
    "Row",
    "check_in_folder",
    "find_file",
    "item_of",
    "picture_name",
    "read_object",
    "read_rows",
]

_MAX_BYTES = 1 << 29


class Row:
    """One object of a file, whose fields are checked when they are asked for.

    Args:
        values: what the file holds.
        where: begins every message: the argument, the file and the row.

    Raises:
        ValueError: the values are no object.
    """

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, Mapping):
            raise ValueError(f"{where}: expected an object, got {_shown(values)}")
        self.values: Mapping[str, Any] = values
        self.where = where

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def error(self, key: str, message: str) -> ValueError:
        """An error about one field, to be raised."""
        return ValueError(f"{self.where}: {key}: {message}")

    def any(self, key: str) -> Any:
        """A field of any type; it must be there."""
        if key not in self.values:
            raise self.error(key, f"is missing; there are {sorted(map(str, self.values))}")
        return self.values[key]

    def text(self, key: str) -> str:
        """A text, which may be empty."""
        return self._typed(key, str, "text")  # type: ignore[no-any-return]

    def name(self, key: str) -> str:
        """A number or a text, as text: what names something."""
        value = self.any(key)
        if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
            raise self.error(key, f"expected an integer or a text, got {_shown(value)}")
        return str(value)

    def integer(self, key: str, at_least: int | None = None) -> int:
        """An integer."""
        value = self._typed(key, int, "an integer")
        if isinstance(value, bool) or (at_least is not None and value < at_least):
            least = "" if at_least is None else f" of at least {at_least}"
            raise self.error(key, f"expected an integer{least}, got {_shown(value)}")
        return value  # type: ignore[no-any-return]

    def array(self, key: str, least: int = 0) -> list[Any]:
        """A list with at least so many values."""
        value = self._typed(key, list, "a list")
        if len(value) < least:
            raise self.error(key, f"expected at least {least} values, got {len(value)}")
        return value  # type: ignore[no-any-return]

    def texts(self, key: str, least: int = 0) -> tuple[str, ...]:
        """A list of texts."""
        values = self.array(key, least)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise self.error(f"{key}[{index}]", f"expected text, got {_shown(value)}")
        return tuple(values)

    def row(self, key: str) -> Row:
        """An object inside this one."""
        return Row(self.any(key), f"{self.where}: {key}")

    def rows(self, key: str, least: int = 0) -> list[Row]:
        """A list of objects."""
        values = self.array(key, least)
        return [Row(value, f"{self.where}: {key}[{k}]") for k, value in enumerate(values)]

    def items(self) -> Iterator[tuple[str, Row]]:
        """All fields, each an object."""
        for key, value in self.values.items():
            yield key, Row(value, f"{self.where}: {key}")

    def size(self) -> tuple[int, int]:
        """Height and width, of the fields of these names."""
        return self.integer("height", 1), self.integer("width", 1)

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """So many finite numbers."""
        values = self.array(key)
        good = [
            isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
            for v in values
        ]
        if len(values) != count or not all(good):
            raise self.error(key, f"expected {count} finite numbers, got {_shown(values)}")
        return tuple(values)

    def box(self, key: str) -> tuple[float, float, float, float]:
        """A box (x, y, width, height) in pixels, as (x0, y0, x1, y1)."""
        x, y, width, height = self.numbers(key, 4)
        if width <= 0 or height <= 0:
            raise self.error(
                key, f"expected a positive width and height, got {_shown((width, height))}"
            )
        return x, y, x + width, y + height

    def clipped_box(self, key: str, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The same, cut to an image (height, width)."""
        x0, y0, x1, y1 = self.box(key)
        clipped = max(x0, 0.0), max(y0, 0.0), min(x1, float(size[1])), min(y1, float(size[0]))
        if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            raise self.error(key, f"lies outside the image of size {size}: {(x0, y0, x1, y1)}")
        return clipped

    def rle(self, key: str) -> Mapping[str, Any]:
        """A COCO RLE; its counts are decoded when its pixels are wanted."""
        return check_rle(self.row(key))

    def rles(self, key: str, least: int = 1) -> tuple[Mapping[str, Any], ...]:
        """A list of COCO RLEs."""
        return tuple(check_rle(row) for row in self.rows(key, least))

    def _typed(self, key: str, kind: type, name: str) -> Any:
        value = self.any(key)
        if not isinstance(value, kind):
            raise self.error(key, f"expected {name}, got {_shown(value)}")
        return value


def check_rle(row: Row) -> Mapping[str, Any]:
    """The values of a row that is an RLE: its size, and counts."""
    size = row.array("size")
    if len(size) != 2 or not all(isinstance(v, int) and v > 0 for v in size):
        raise row.error("size", f"expected (height, width), got {_shown(size)}")
    if not isinstance(row.any("counts"), (str, list)):
        raise row.error("counts", f"expected text or a list, got {_shown(row.values['counts'])}")
    return row.values


def find_file(data: Path, *names: str) -> Path:
    """The first of several places that exists below a folder.

    Raises:
        FileNotFoundError: no such folder, or nothing at any place.
    """
    if not data.is_dir():
        raise FileNotFoundError(f"data: no such folder: {str(data)!r}")
    for name in names:
        if (data / name).exists():
            return data / name
    raise FileNotFoundError(f"data: {str(data)!r} has no {' or '.join(names)}")


def item_of(items: Sequence[Item], row: Row, *fields: str) -> Item:
    """The item that a row of a record repeats: that of its picture, and of these fields.

    Args:
        items: of the benchmark; pictures may come several times.
        row: with the field ``image``.
        fields: texts that tell items of one picture apart, as ``mask_rles`` does; compared where
            the row has them.

    Raises:
        ValueError: the row is of no item, or of several.
    """
    image = row.text("image")
    found = [item for item in items if item.image == image]
    if len(found) > 1:
        told = {name: row.text(name) for name in fields if name in row}
        masks = row.rles("mask_rles") if "mask_rles" in row else None
        found = [
            item
            for item in found
            if all(item.row.get(name) == text for name, text in told.items())
            and masks in (None, item.masks)
        ]
    if len(found) != 1:
        what = "no item" if not found else f"{len(found)} items"
        raise row.error("image", f"is of {what} of the data, got {image!r}")
    return found[0]


def picture_name(data: Path, name: str, *folders: str) -> str:
    """Where a picture lies, relative to the folder: the first place where it is, or the first."""
    places = [f"{folder}/{name}" if folder else name for folder in folders]
    return next((place for place in places if (data / place).is_file()), places[0])


def check_in_folder(name: str, what: str) -> None:
    """Raise ValueError where a name in the data leads out of the data's folder.

    Links may lead elsewhere: they are the user's own.

    Args:
        name: of a file, relative to the folder.
        what: whose file it is, for the message.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"data: {what} names {name!r}, which is not in the folder")


def read_rows(file: Path, argument: str = "data") -> list[Row]:
    """The objects of a JSON list, or of a file of JSON lines (``.jsonl``).

    Raises:
        FileNotFoundError: no such file.
        ValueError: too large, not JSON, or no such list.
    """
    if file.suffix == ".jsonl":
        values = read_json_lines(file, _MAX_BYTES, argument)
        kind = "line"
    else:
        values = read_json_file(file, _MAX_BYTES, argument)
        kind = "row"
    where = f"{argument}: {str(file)!r}"
    if not isinstance(values, list):
        raise ValueError(f"{where}: expected a list, got {type(values).__name__}")
    first = 1 if kind == "line" else 0
    return [Row(value, f"{where}: {kind} {k}") for k, value in enumerate(values, start=first)]


def read_object(file: Path, argument: str = "data") -> Row:
    """The object that a JSON file is.

    Raises:
        FileNotFoundError, ValueError: as for :func:`read_rows`.
    """
    return Row(read_json_file(file, _MAX_BYTES, argument), f"{argument}: {str(file)!r}")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
