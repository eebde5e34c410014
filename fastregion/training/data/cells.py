"""What stands in one cell of a row: a picture, a mask, a caption, a dialogue.

A picture is a path, ``"data:base64,..."`` text (``"data:image/png;base64,..."`` too), the bytes of
a file, a decoded PIL image, or ``{"bytes": ..., "path": ...}`` as HF datasets store it. A mask is
one of these, or a COCO RLE, a COCO annotation, a box ``[x0, y0, x1, y1]`` in pixels with exclusive
ends, a polygon (``[x0, y0, x1, y1, x2, y2, ...]`` or ``[[x, y], ...]``), or a list of polygons.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from fastregion.images import (
    RgbImage,
    decode_image,
    open_image,
    open_image_bytes,
    upright_size,
)
from fastregion.regions import Region
from fastregion.regions.outlines import is_number
from fastregion.training.data.record import BadRow, Turn

__all__ = ["Picture", "captions_of", "listed", "region_of", "text_of", "turns_of"]

MAX_FILE_BYTES = 1 << 28  # of a picture that is held in a row
_LONGEST_PATH = 4096  # characters; longer text is a picture whose "data:" is missing


@dataclass(frozen=True)
class Picture:
    """A picture that is read when it is asked for.

    Attributes:
        source: where it is.
    """

    source: Path | bytes | str | Image.Image

    @classmethod
    def of(cls, cell: Any, folder: Path, argument: str = "image") -> Picture:
        """The picture of a cell.

        Args:
            cell: see this module.
            folder: what relative paths start from.
            argument: the column's name, for messages.

        Raises:
            BadRow: another type.
        """
        if isinstance(cell, Mapping) and cell.keys() <= {"bytes", "path"}:
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes | Image.Image):
            return cls(cell)
        if isinstance(cell, str) and cell.startswith("data:"):
            return cls(cell)
        if isinstance(cell, str) and 0 < len(cell) <= _LONGEST_PATH:
            return cls(folder / cell)
        raise BadRow(f"{argument}: expected a path or a picture, got {_shown(cell)}")

    def read(self) -> RgbImage:
        """The pixels, uint8 RGB ``[H, W, 3]``; BadRow if there are none."""
        with self._open() as image:
            try:
                return decode_image(image, name=self._name)
            except ValueError as error:
                raise BadRow(str(error), "unreadable picture") from error

    def size(self) -> tuple[int, int]:
        """(height, width) by the header, which is read once; BadRow if there is none."""
        return self._size

    @cached_property
    def _size(self) -> tuple[int, int]:
        with self._open() as image:
            try:
                return upright_size(image)
            except ValueError as error:
                raise BadRow(str(error), "unreadable picture") from error

    def region(self) -> Region:
        """The picture as a mask; BadRow if it is none."""
        source = self.source
        try:
            if isinstance(source, Path):
                return Region.from_mask(source)
            with self._open() as image:
                return Region.from_mask(image)
        except BadRow as error:
            raise BadRow(str(error), "malformed mask") from error
        except OSError as error:  # not there, not to be opened, or a name that no file can have
            raise BadRow(str(error), "missing file") from error
        except (TypeError, ValueError) as error:
            raise BadRow(str(error), "malformed mask") from error

    @property
    def _name(self) -> str:
        return repr(str(self.source)) if isinstance(self.source, Path) else "the row's picture"

    def _open(self) -> AbstractContextManager[Image.Image]:
        source = self.source
        if isinstance(source, Image.Image):
            return nullcontext(source)
        try:
            if isinstance(source, Path):
                return open_image(source)
            return open_image_bytes(_decoded(source), name=self._name)
        except OSError as error:
            raise BadRow(str(error), "missing file") from error
        except ValueError as error:
            raise BadRow(str(error), "unreadable picture") from error


def _decoded(source: bytes | str) -> bytes:
    """A file's bytes; ValueError if they are not base64, or too many."""
    if isinstance(source, str):
        head, comma, text = source.partition(",")
        if not comma or not head.endswith("base64"):
            raise ValueError(f"image: expected 'data:base64,' and text, got {source[:30]!r}")
        try:
            source = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"image: is not base64 ({error})") from error
    if len(source) > MAX_FILE_BYTES:
        raise ValueError(f"image: is larger than {MAX_FILE_BYTES >> 20} MiB")
    return source


def region_of(cell: Any, size: tuple[int, int], folder: Path) -> Region:
    """The region of a mask's cell, bound to the picture and not empty.

    Args:
        cell: see this module.
        size: (height, width) of the picture.
        folder: what relative paths start from.

    Raises:
        BadRow: no such region.
    """
    region = _unbound(cell, folder)
    if region.size is not None and region.size != size:
        raise BadRow(
            f"mask: expected shape {size} to match the image, got {region.size}", "size mismatch"
        )
    try:
        bound = region.bind(size)
    except ValueError as error:  # a box beyond the picture
        raise BadRow(str(error), "malformed mask") from error
    if bound.area == 0:
        raise BadRow("mask: is empty, expected at least one pixel", "empty mask")
    return bound


def _unbound(cell: Any, folder: Path) -> Region:
    known = isinstance(cell, Mapping) and {"counts", "segmentation", "bbox"} & cell.keys()
    if isinstance(cell, str | bytes | Image.Image | Mapping) and not known:
        return Picture.of(cell, folder, "mask").region()
    try:
        if isinstance(cell, Mapping):
            return Region.from_rle(cell) if "counts" in cell else Region.from_coco(cell)
        if isinstance(cell, Sequence):
            flat = all(map(is_number, cell))
            return Region.from_box(cell) if flat and len(cell) == 4 else Region.from_polygon(cell)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRow(str(error), "malformed mask") from error
    raise BadRow(
        f"mask: expected a path, an RLE, a box or a polygon, got {_shown(cell)}", "malformed mask"
    )


def text_of(cell: Any, name: str) -> str:
    """A text with more than white space; BadRow otherwise."""
    if not isinstance(cell, str):
        raise BadRow(f"{name}: expected text, got {_shown(cell)}")
    if not cell.strip():
        raise BadRow(f"{name}: has no text", "no text")
    return cell


def captions_of(cell: Any, name: str = "caption") -> tuple[str, ...]:
    """One caption, or a list of equally good ones; BadRow otherwise."""
    if isinstance(cell, list | tuple):
        if not cell:
            raise BadRow(f"{name}: has no text", "no text")
        return tuple(text_of(text, name) for text in cell)
    return (text_of(cell, name),)


def turns_of(cell: Any) -> tuple[Turn, ...]:
    """A dialogue ``[{"from": "human" | "gpt" | "system", "value": text}, ...]`` with an answer.

    Raises:
        BadRow: no dialogue, or one without an answer, or with one that has no text.
    """
    cell = listed(cell)
    if not isinstance(cell, list | tuple) or not cell:
        raise BadRow(f"conversations: expected a list of turns, got {_shown(cell)}")
    turns = []
    for place, turn in enumerate(cell):
        where = f"conversations[{place}]"
        if not isinstance(turn, Mapping) or not {"from", "value"} <= turn.keys():
            raise BadRow(f"{where}: expected an object with from and value, got {_shown(turn)}")
        speaker, text = turn["from"], turn["value"]
        if speaker not in ("system", "human", "gpt"):
            raise BadRow(f"{where}: from must be 'human', 'gpt' or 'system', got {_shown(speaker)}")
        if speaker == "gpt":
            text_of(text, where)
        elif not isinstance(text, str):
            raise BadRow(f"{where}: expected text, got {_shown(text)}")
        turns.append(Turn(speaker=speaker, text=text))
    if all(turn.speaker != "gpt" for turn in turns):
        raise BadRow("conversations: nothing is answered (no turn of 'gpt')", "no text")
    return tuple(turns)


def listed(cell: Any) -> Any:
    """``{"a": [1, 2], "b": [3, 4]}`` as ``[{"a": 1, "b": 3}, {"a": 2, "b": 4}]``; else the cell.

    The first form is how HF datasets give back a list of objects.
    """
    if not isinstance(cell, Mapping) or not cell:
        return cell
    columns = list(cell.values())
    if not all(isinstance(column, list) for column in columns):
        return cell
    # A box, or the size and run lengths of an RLE, are lists of numbers in a single object.
    if any(all(map(is_number, column)) for column in columns):
        return cell
    if len({len(column) for column in columns}) != 1:
        return cell
    return [dict(zip(cell, values, strict=True)) for values in zip(*columns, strict=True)]


def _shown(cell: Any) -> str:
    shown = repr(cell)
    return f"{type(cell).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
