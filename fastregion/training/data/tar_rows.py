"""Webdataset shards: tar files whose members of one key are a sample, read at random.

A member is called ``folder/key.kind``; members of a key stand together. What becomes of a kind:

=========================  =====================================================
kind                       column
=========================  =====================================================
``json``                   the columns of the object
``txt``, ``caption.txt``   ``caption``, unless the JSON has texts
``jpg jpeg webp png``      ``image``
``mask.png``               ``mask``, unless the JSON has masks
``png`` beside ``jpg``     ``mask`` likewise
=========================  =====================================================

Every text and picture is also a column under its kind, for mappings of columns; nothing else is
read, pickled objects least of all. Samples are found by the places of their members, which are
noted once; compressed tar files have none.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastregion.training.data.record import BadRow
from fastregion.training.data.rows import json_object

__all__ = ["TarRows"]

_PICTURES = ("jpg", "jpeg", "webp", "png")
_MASK = "mask.png"
_TEXTS = ("txt", "caption.txt")
_MASK_COLUMNS = {"mask", "masks", "mask_rle", "mask_rles"}
_TEXT_COLUMNS = {"caption", "captions", "conversations"}
_MAX_BYTES = 1 << 28  # of a member


@dataclass(frozen=True)
class _Sample:
    """The members of a key: (first byte, bytes) of each kind."""

    shard: int
    key: str
    members: Mapping[str, tuple[int, int]]


class TarRows:
    """Samples of shards, shard by shard in the order of their names.

    Args:
        path: a shard, or a folder of them.

    Raises:
        FileNotFoundError: no such path, or no ``.tar`` in the folder.
        ValueError: a file that is no plain tar file, or that is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not self._shards or not all(shard.is_file() for shard in self._shards):
            raise FileNotFoundError(f"data: {str(path)!r}: expected a .tar, or a folder of them")
        self.folder = self._shards[0].parent
        self._samples = [
            _Sample(number, key, members)
            for number, shard in enumerate(self._shards)
            for key, members in _members(shard).items()
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self._samples[index]
        row: dict[str, Any] = {}
        with self._shards[sample.shard].open("rb") as shard:
            for kind, (start, length) in sample.members.items():
                if length > _MAX_BYTES:
                    raise BadRow(f"member {kind!r} is larger than {_MAX_BYTES >> 20} MiB")
                shard.seek(start)
                row[kind] = shard.read(length)
        about = json_object(row.pop("json")) if "json" in row else {}
        for kind in _TEXTS:
            if kind in row:
                row[kind] = row[kind].decode("utf-8", errors="replace")
        return {"id": sample.key, **row, **about, **_columns(row, about)}

    def name(self, index: int) -> str:
        """Where it stands, for messages."""
        sample = self._samples[index]
        return f"{self._shards[sample.shard].name}, {sample.key}"


def _columns(row: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that kinds stand for; mask and text where the JSON has nothing of their sort."""
    columns = {}
    pictures = [kind for kind in _PICTURES if kind in row]
    if pictures:
        columns["image"] = row[pictures[0]]
    mask = _MASK if _MASK in row else "png"
    if mask in row and mask not in pictures[:1] and _MASK_COLUMNS.isdisjoint(about):
        columns["mask"] = row[mask]
    for kind in _TEXTS:
        if kind in row and _TEXT_COLUMNS.isdisjoint(about):
            columns["caption"] = row[kind]
    return columns


def _members(shard: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """By key and kind, where each member lies."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as members:
            for member in members:
                head, slash, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                known = kind.lower() in (*_PICTURES, _MASK, *_TEXTS, "json")
                if not member.isreg() or member.issparse() or not stem or not known:
                    continue
                if member.offset_data + member.size > size:
                    raise ValueError(f"data: {str(shard)!r} is cut off in {member.name!r}")
                sample = found.setdefault(head + slash + stem, {})
                if kind.lower() in sample:
                    raise ValueError(f"data: {str(shard)!r} has {member.name!r} twice")
                sample[kind.lower()] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(
            f"data: {str(shard)!r} is no plain tar file ({error}); unpack a compressed one first"
        ) from error
    return found
