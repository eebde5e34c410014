"""URECA's rows: conversations about a region of a picture of SA-1B, told by its mask's number.

A file of settings names the data sets, each with the folders of its pictures and masks and its rows
(a relative path starts from the settings' folder):

    {"train": {"root": "images", "mask": "masks", "annotation": "train.jsonl",
               "data_augment": true, "repeat_time": 1, "max_dynamic_patch": 6}}

A row is ``{"id": 0, "image": "sa_1", "mask_id": "7", "conversations": [...]}``; its mask is the
annotation 7 of ``masks/sa_1.json``, in SA-1B's format. Data sets with "test" in their names are for
evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastregion.json_files import read_json_file, read_json_object
from fastregion.regions import Region
from fastregion.training.data.cells import Picture, region_of, turns_of
from fastregion.training.data.record import BadRow, Record
from fastregion.training.data.rows import JsonLines

__all__ = ["UrecaRecords"]

_MAX_SETTINGS_BYTES = 1 << 24
_MAX_MASKS_BYTES = 1 << 28
_TEST = "test"


@dataclass(frozen=True)
class _DataSet:
    """One entry of the settings."""

    name: str
    pictures: Path
    masks: Path
    rows: JsonLines
    jpeg_augmentation: bool
    max_tiles: int | None
    repeat: float

    @property
    def count(self) -> int:
        """How many of its rows are used: the first part, where it is not repeated."""
        return int(len(self.rows) * min(self.repeat, 1))


class UrecaRecords:
    """The rows of all data sets, one after the other.

    Args:
        settings: the file of settings.
        split: ``"train"`` or ``"test"``.

    Attributes:
        repeats: how often each row comes in an epoch, float64 ``[N]``.
        files: the settings, and the files of rows.

    Raises:
        FileNotFoundError: a file or a folder is missing.
        ValueError: settings of another form, or no data set of this split.
    """

    def __init__(self, settings: Path, split: str = "train") -> None:
        if split not in ("train", _TEST):
            raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
        entries = read_json_object(settings, _MAX_SETTINGS_BYTES, "data")
        wanted = {name: e for name, e in entries.items() if (_TEST in name) == (split == _TEST)}
        if not wanted:
            raise ValueError(f"data: {str(settings)!r} has no data set for the split {split!r}")
        self._sets = [_data_set(settings, name, entry) for name, entry in wanted.items()]
        self.files = [settings, *(one.rows.file for one in self._sets)]
        self._ends = np.cumsum([one.count for one in self._sets])
        self.repeats: NDArray[np.float64] = np.concatenate(
            [np.full(one.count, max(one.repeat, 1.0)) for one in self._sets]
        )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        data_set, place = self._place(index)
        return _record(data_set, data_set.rows[place])

    def name(self, index: int) -> str:
        """Where it stands, for messages."""
        data_set, place = self._place(index)
        return f"{data_set.name}: {data_set.rows.name(place)}"

    def _place(self, index: int) -> tuple[_DataSet, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        data_set = self._sets[number]
        return data_set, index - int(self._ends[number]) + data_set.count


def _data_set(settings: Path, name: str, entry: Any) -> _DataSet:
    where = f"data: {str(settings)!r}: {name}"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: must be an object, got {type(entry).__name__}")
    paths = {}
    for key in ("root", "mask", "annotation"):
        if not isinstance(entry.get(key), str):
            raise ValueError(f"{where}: {key} must be a path, got {entry.get(key)!r}")
        paths[key] = settings.parent / entry[key]
    for key in ("root", "mask"):
        if not paths[key].is_dir():
            raise FileNotFoundError(f"{where}: {key}: no such folder: {str(paths[key])!r}")
    augmented, most = entry.get("data_augment", False), entry.get("max_dynamic_patch")
    if not isinstance(augmented, bool):
        raise ValueError(f"{where}: data_augment must be true or false, got {augmented!r}")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ValueError(f"{where}: max_dynamic_patch must be a positive integer, got {most!r}")
    repeat = entry.get("repeat_time", 1)
    number = isinstance(repeat, int | float) and not isinstance(repeat, bool)
    if not number or not repeat > 0 or (repeat > 1 and repeat != int(repeat)):
        raise ValueError(
            f"{where}: repeat_time must be an integer, or a number between 0 and 1, got {repeat!r}"
        )
    rows = JsonLines(paths["annotation"])
    return _DataSet(name, paths["root"], paths["mask"], rows, augmented, most, float(repeat))


def _record(data_set: _DataSet, row: Mapping[str, Any]) -> Record:
    for key, kinds in {"id": int, "image": str, "mask_id": str | int}.items():
        if not isinstance(row.get(key), kinds) or isinstance(row[key], bool):
            raise BadRow(f"{key}: is missing or of another type, got {row.get(key)!r}")
    if not str(row["mask_id"]).isascii() or not str(row["mask_id"]).isdecimal():
        raise BadRow(f"mask_id: expected a number, got {row['mask_id']!r}")
    file = data_set.pictures / row["image"]
    # The published rows leave the suffix out.
    picture = Picture(file if file.exists() else file.with_name(f"{file.name}.jpg"))
    masks = data_set.masks / f"{row['image']}.json"
    return Record(
        id=f"{data_set.name}/{row['id']}",
        image=picture.read,
        size=picture.size,
        regions=partial(_regions, picture, masks, int(row["mask_id"])),
        num_regions=1,
        turns=turns_of(row.get("conversations")),
        jpeg_augmentation=data_set.jpeg_augmentation,
        max_tiles=data_set.max_tiles,
    )


def _regions(picture: Picture, masks: Path, mask_id: int) -> tuple[Region, ...]:
    """The mask of this number in a file of SA-1B."""
    try:
        content = read_json_file(masks, _MAX_MASKS_BYTES, "mask")
    except FileNotFoundError as error:
        raise BadRow(str(error), "missing file") from error
    except ValueError as error:
        raise BadRow(str(error), "malformed mask") from error
    annotations = content.get("annotations") if isinstance(content, Mapping) else None
    if not isinstance(annotations, list):
        raise BadRow(f"mask: {str(masks)!r} has no list of annotations", "malformed mask")
    found = [a for a in annotations if isinstance(a, Mapping) and a.get("id") == mask_id]
    if len(found) != 1:
        raise BadRow(
            f"mask: {str(masks)!r}: expected one annotation with the id {mask_id}, "
            f"got {len(found)}",
            "malformed mask",
        )
    return (region_of(found[0].get("segmentation"), picture.size(), masks.parent),)
