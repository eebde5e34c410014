"""Checkpoints on disk: folders that appear whole or not at all, of which the last few stay."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastregion.json_files import read_json_object

__all__ = [
    "Checkpoints",
    "read_json",
    "read_tensors",
    "write_json",
    "write_tensors",
]

_MAX_JSON_BYTES = 64 << 20
_NAME = re.compile(r"step-(\d{8})")


class Checkpoints:
    """The checkpoints of a run, in a folder that all its processes see.

    Args:
        folder: made with the first of them.
        keep_last: how many stay.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self.keep_last = keep_last

    def latest(self) -> Path | None:
        """The last whole one."""
        return max(self._whole(), default=None)

    def begin(self, step: int) -> Path:
        """An empty folder to write one into; what an interrupted write left behind goes."""
        part = self.part(step)
        for old in self._folders(".part"):
            shutil.rmtree(old)
        part.mkdir(parents=True)
        return part

    def part(self, step: int) -> Path:
        """The folder that ``begin`` makes."""
        return self.folder / f"step-{step:08}.part"

    def finish(self, step: int) -> Path:
        """Give it its name, when all processes have written their files; then drop old ones."""
        part = self.part(step)
        final = part.with_suffix("")
        _sync(part)
        part.rename(final)
        _sync(self.folder)
        for old in self._whole()[: -self.keep_last]:
            shutil.rmtree(old)
        return final

    def _whole(self) -> list[Path]:
        return self._folders("")

    def _folders(self, suffix: str) -> list[Path]:
        """Our folders, in their order; other files may lie beside them."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if path.suffix == suffix)
        return sorted(path for path in found if _NAME.fullmatch(path.stem) and path.is_dir())


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors on the CPU to a new safetensors file, down to the disk."""
    save_file(dict(tensors), file)
    _sync(file)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The inverse.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"checkpoint: {str(file)!r} is missing or damaged ({error}); without its folder, the "
            "run goes on from the checkpoint before"
        ) from error


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a new JSON file, down to the disk."""
    file.write_text(json.dumps(values) + "\n", encoding="utf-8")
    _sync(file)


def read_json(file: Path) -> dict[str, Any]:
    """The inverse.

    Raises:
        FileNotFoundError, ValueError: it is missing or damaged.
    """
    return read_json_object(file, _MAX_JSON_BYTES, "checkpoint")


def _sync(path: Path) -> None:
    """Have a file's contents, or a folder's names, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
