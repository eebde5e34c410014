"""Rows of a dataset of the library ``datasets``: saved in a folder, a file of it, or on the Hub."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["HfRows"]

_DEFAULT_SPLIT = "train"


class HfRows:
    """Rows by position; pictures stay encoded until they are read.

    Args:
        path: a folder written by ``save_to_disk``, or one with ``.parquet`` files below it, as the
            Hub has them; an ``.arrow`` or ``.parquet`` file; or, where there is no such path, the
            Hub's name of a dataset.
        split: which part; by default ``"train"``, or the only one.

    Raises:
        ImportError: ``datasets`` is not installed.
        FileNotFoundError: no such path.
        ValueError: a folder of something else, a damaged file, or no such split.
    """

    def __init__(self, path: Path, split: str | None = None) -> None:
        try:
            datasets = import_module("datasets")  # has no types
        except ModuleNotFoundError as error:
            raise ImportError(
                f'data: {str(path)!r} needs the library datasets: pip install "fastregion[train]"'
            ) from error
        self.folder = path if path.is_dir() else path.parent
        self._name = path.name
        self._rows = _opened(datasets, path, split)
        for column, feature in self._rows.features.items():
            if isinstance(feature, datasets.Image):
                self._rows = self._rows.cast_column(column, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self._rows[index]
        return row

    def name(self, index: int) -> str:
        """Where it stands, for messages."""
        return f"{self._name}, row {index}"


def _opened(datasets: Any, path: Path, split: str | None) -> Any:
    if path.is_dir() and any(path.rglob("*.parquet")):
        found = _read(path, partial(datasets.load_dataset, "parquet", data_dir=str(path)))
    elif path.is_dir():
        try:
            found = _read(path, partial(datasets.load_from_disk, str(path)))
        except FileNotFoundError as error:
            raise ValueError(
                f"data: {str(path)!r} is no folder that datasets have saved ({error})"
            ) from error
    elif path.suffix == ".arrow" and path.is_file():
        found = _read(path, partial(datasets.Dataset.from_file, str(path)))
    elif path.suffix == ".parquet" and path.is_file():
        found = _read(path, partial(datasets.Dataset.from_parquet, str(path)))
    elif len(path.parts) == 2 and not path.suffix:
        try:
            found = datasets.load_dataset(path.as_posix())
        except (OSError, ValueError) as error:  # unknown, not public, or out of reach
            raise FileNotFoundError(
                f"data: {str(path)!r} is no path, and no dataset of the Hub that can be read "
                f"({type(error).__name__}: {error})"
            ) from error
    else:
        raise FileNotFoundError(f"data: no such file or folder: {str(path)!r}")
    if not isinstance(found, dict):
        if split is not None:
            raise ValueError(f"data: {str(path)!r} has no splits, got split {split!r}")
        return found
    wanted = split or (_DEFAULT_SPLIT if len(found) > 1 else next(iter(found)))
    if wanted not in found:
        raise ValueError(
            f"data: {str(path)!r} has the splits {', '.join(found)}, got split {wanted!r}"
        )
    return found[wanted]


def _read(path: Path, read: Callable[[], Any]) -> Any:
    """What is read from a file or a folder that is there."""
    try:
        return read()
    except (FileNotFoundError, ImportError, MemoryError):
        raise
    except Exception as error:  # whatever a torn file brings about, of several libraries
        cause = error.__cause__ or error  # the library wraps what its readers say
        raise ValueError(
            f"data: {str(path)!r} is damaged, or of another form ({type(cause).__name__}: {cause})"
        ) from error
