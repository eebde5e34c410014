"""Where rows come from: a recipe names files and formats, the readers make records of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from fastregion.training.data.hf_rows import HfRows
from fastregion.training.data.readers.described import COLUMNS, described_record
from fastregion.training.data.readers.gar import gar_record
from fastregion.training.data.readers.pix2cap import Pix2CapRecords
from fastregion.training.data.readers.ureca import UrecaRecords
from fastregion.training.data.record import Record
from fastregion.training.data.rows import JsonLines, JsonList, Rows
from fastregion.training.data.tar_rows import TarRows

__all__ = ["DataSource", "Mixture", "Records", "open_source", "open_sources", "repeats_of"]

Format = Literal["gar", "dam", "ureca", "pix2cap", "jsonl", "hf", "webdataset"]


class Records(Protocol):
    """A map-style dataset.

    It may also have ``repeats``, float64 ``[N]``: how often each row comes in an epoch (1 where it
    has not).
    """

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, index: int) -> Record:
        """A row; BadRow if nothing can be made of it."""

    def name(self, index: int) -> str:
        """Where a row stands, for messages."""


# Which of the fields below a format reads beside path and repeat.
_FIELDS: dict[Format, tuple[str, ...]] = {
    "gar": ("images", "split"),
    "dam": ("images", "masks", "split", "columns"),
    "ureca": ("split",),
    "pix2cap": ("images", "masks"),
    "jsonl": ("images", "masks", "columns"),
    "hf": ("images", "masks", "split", "columns"),
    "webdataset": ("columns",),
}


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One entry of a recipe's ``data``.

    Attributes:
        format: ``gar``, ``ureca`` or ``pix2cap`` for the published data; ``dam``, ``jsonl``,
            ``hf`` or ``webdataset`` for rows as :mod:`.readers.described` has them, wherever they
            stand (for ``dam``, that is told by the path).
        path: the file or folder; for ``hf`` also a dataset's name on the Hub.
        repeat: how often its rows come in an epoch: 2 for twice, 0.5 for every second one, drawn
            anew each epoch.
        images: the folder of the pictures, where it is not that of the path.
        masks: the folder of the masks; for ``pix2cap``, of the PNGs.
        split: which part of the data.
        columns: the rows' own names of columns, by ours: ``{"caption": "text"}``.
    """

    format: Format
    path: str
    repeat: float = 1.0
    images: str | None = None
    masks: str | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise ValueError(
                f"data: format: expected one of {', '.join(get_args(Format))}, got {self.format!r}"
            )
        if not isinstance(self.path, str) or not self.path:
            raise ValueError(f"data: path: expected a file or a folder, got {self.path!r}")
        number = isinstance(self.repeat, int | float) and not isinstance(self.repeat, bool)
        if not number or not 0 < self.repeat < float("inf"):
            raise ValueError(f"data: repeat: expected a positive number, got {self.repeat!r}")
        for name in ("images", "masks", "split", "columns"):
            if getattr(self, name) and name not in _FIELDS[self.format]:
                raise ValueError(f"data: {name}: is not used by the format {self.format!r}")
        for ours, theirs in self.columns.items():
            if ours not in COLUMNS or not isinstance(theirs, str):
                raise ValueError(
                    f"data: columns: expected names of columns for {', '.join(COLUMNS)}, got "
                    f"{ours!r}: {theirs!r}"
                )
        if self.format == "pix2cap" and self.images is None:
            raise ValueError("data: images: is needed for pix2cap, the folder of the pictures")


@dataclass(frozen=True)
class _RowRecords:
    """Rows, and what makes records of them."""

    rows: Rows
    record: Callable[[Mapping[str, Any], str], Record]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        return self.record(self.rows[index], f"row {index}")

    def name(self, index: int) -> str:
        return self.rows.name(index)


def open_source(source: DataSource, root: Path = Path()) -> Records:
    """The records of one source; none is read yet.

    Args:
        source: the entry of a recipe; its ``repeat`` is left to :func:`open_sources`.
        root: what relative paths start from.

    Raises:
        FileNotFoundError, ValueError: the data is missing or of another form; the message names it.
        ImportError: a library is not installed.
    """
    path = root / source.path
    if source.format == "ureca":
        return UrecaRecords(path, source.split or "train")
    masks = None if source.masks is None else root / source.masks
    if source.format == "pix2cap":
        return Pix2CapRecords(path, root / (source.images or ""), masks)
    rows = _rows(source, path)
    images = rows.folder if source.images is None else root / source.images
    if source.format == "gar":
        return _RowRecords(rows, partial(gar_record, images=images))
    return _RowRecords(
        rows,
        partial(
            described_record,
            images=images,
            masks=rows.folder if masks is None else masks,
            columns=source.columns,
        ),
    )


def _rows(source: DataSource, path: Path) -> Rows:
    """The rows of a path, stored as the format says, or else as the path tells."""
    tar = path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar")))
    if source.format == "webdataset" or (source.format == "dam" and tar):
        rows: Rows = TarRows(path)
    elif source.format != "hf" and path.suffix == ".json":
        rows = JsonList(path)
    elif source.format == "jsonl" or (source.format != "hf" and path.suffix == ".jsonl"):
        rows = JsonLines(path)
    else:  # a name of the Hub is no path below the root
        return HfRows(path if path.exists() else Path(source.path), source.split)
    if source.split is not None:
        raise ValueError(f"data: split: {str(path)!r} has none, got {source.split!r}")
    return rows


class Mixture:
    """Several sources side by side.

    Args:
        sources: the records, each with how often they come in an epoch.
        stamp: changes with the files of the rows.

    Attributes:
        repeats: of every row, float64 ``[N]``.
        stamp: as given.
    """

    def __init__(self, sources: Sequence[tuple[Records, float]], stamp: str | None = None) -> None:
        if not sources:
            raise ValueError("data: expected at least one source, got none")
        self.stamp = stamp
        self._sources = [records for records, _ in sources]
        self._ends = np.cumsum([len(records) for records in self._sources])
        self.repeats: NDArray[np.float64] = np.concatenate(
            [repeats_of(records) * repeat for records, repeat in sources]
        )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        number, place = self._place(index)
        record = self._sources[number][place]
        # Two sources may number their rows alike.
        return record if len(self._sources) == 1 else replace(record, id=f"{number}/{record.id}")

    def name(self, index: int) -> str:
        """Where a row stands, for messages."""
        number, place = self._place(index)
        return self._sources[number].name(place)

    def _place(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - int(self._ends[number]) + len(self._sources[number])


def open_sources(sources: Sequence[DataSource], root: Path = Path()) -> Mixture:
    """The records of all sources of a recipe.

    Args:
        sources: at least one.
        root: what relative paths start from.

    Raises:
        FileNotFoundError, ValueError, ImportError: as for :func:`open_source`.
    """
    opened = [open_source(source, root) for source in sources]
    digest = hashlib.sha256()
    for source, records in zip(sources, opened, strict=True):
        digest.update(repr(source).encode())
        for file in _files(root / source.path, records):
            about = file.stat()
            digest.update(repr((str(file), about.st_size, about.st_mtime_ns)).encode())
    repeats = [source.repeat for source in sources]
    return Mixture(list(zip(opened, repeats, strict=True)), digest.hexdigest())


def _files(path: Path, records: Records) -> list[Path]:
    """The files that hold the rows of a source; none where it is a name of the Hub."""
    if isinstance(records, UrecaRecords):
        return records.files
    if path.is_dir():
        # The library keeps the parts of a dataset, or its shards, in folders below.
        below = isinstance(getattr(records, "rows", None), HfRows)
        return sorted(file for file in path.glob("**/*" if below else "*") if file.is_file())
    return [path] if path.exists() else []


def repeats_of(records: Records) -> NDArray[np.float64]:
    """How often each row comes in an epoch, float64 ``[N]``."""
    found = getattr(records, "repeats", None)
    return np.ones(len(records)) if found is None else np.asarray(found, np.float64)
