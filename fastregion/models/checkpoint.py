"""A captioner's folder: ``config.json``, weights (see ``weights.py``), ``tokenizer.json`` and more.

Nothing in such a folder is ever executed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastregion.json_files import read_json_object
from fastregion.language import Tokenizer
from fastregion.models.weights import OWN_NAMES, WEIGHTS, Layout, save_weights

__all__ = ["CONFIG", "read_config", "read_json", "save_folder"]

CONFIG = "config.json"
_MAX_JSON_BYTES = 1 << 20  # far above any honest one


def save_folder(
    folder: str | os.PathLike[str],
    *,
    config: dict[str, Any],
    model: nn.Module,
    tokenizer: Tokenizer | None,
    dtype: torch.dtype | None = None,
    layout: Layout = OWN_NAMES,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a captioner's folder.

    Each file appears whole or not at all; ``config.json``, without which a folder cannot be loaded,
    comes last. Other files in the folder are left alone, except for weights that would be read
    instead of these. Weights shared by two parameters are stored once.

    Args:
        folder: made if it does not exist.
        config: JSON-able, with ``model_type``.
        model: the module whose weights are saved; not modified.
        tokenizer: saved in the format of the tokenizers library; None for a part without one.
        dtype: floating-point type to store weights in; None keeps theirs.
        layout: how the file calls the parameters.
        texts: further files by name.

    Raises:
        NotADirectoryError: ``folder`` is a file.
    """
    with files_at_once(folder, last=CONFIG) as scratch:
        weights = save_weights(model, scratch, layout, dtype=dtype)
        if tokenizer is not None:
            tokenizer.save(scratch)
        for name, text in (texts or {}).items():
            Path(scratch, name).write_text(text, encoding="utf-8")
        text = json.dumps(config, indent=2, sort_keys=True)
        Path(scratch, CONFIG).write_text(text + "\n", encoding="utf-8")
    if WEIGHTS not in weights:
        Path(folder, WEIGHTS).unlink(missing_ok=True)


@contextmanager
def files_at_once(folder: str | os.PathLike[str], *, last: str) -> Iterator[Path]:
    """A place to write files in; when all is well they are moved to a folder, each whole.

    Args:
        folder: made if it does not exist; its other files are left alone.
        last: the file that comes last, without which the others cannot be read.

    Raises:
        NotADirectoryError: ``folder`` is a file.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"folder: {str(target)!r} is a file")
    target.mkdir(parents=True, exist_ok=True)
    # Inside the target, so that moving a finished file is a rename within one file system.
    with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as scratch:
        yield Path(scratch)
        for name in (*sorted({path.name for path in Path(scratch).iterdir()} - {last}), last):
            # safetensors makes files that only their owner can read.
            shutil.copymode(os.path.join(scratch, last), os.path.join(scratch, name))
            os.replace(os.path.join(scratch, name), target / name)


def read_config(folder: str | os.PathLike[str], model_type: str | None = None) -> dict[str, Any]:
    """Read ``config.json``.

    Args:
        folder: where it lies.
        model_type: what it must name; None for anything.

    Raises:
        FileNotFoundError, ValueError: as for :func:`read_json`; ValueError also where it names no
            ``model_type`` or another.
    """
    config = read_json(folder, CONFIG)
    found = config.get("model_type")
    if not isinstance(found, str):
        file = os.path.join(folder, CONFIG)
        raise ValueError(f"model: {file!r} must be a JSON object with a model_type")
    if model_type not in (None, found):
        raise ValueError(f"model: {os.fspath(folder)!r} holds a {found!r}, expected {model_type!r}")
    return config


def read_json(folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """Read a file of settings.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it is not a JSON object, or larger than 1 MiB.
    """
    file = Path(folder, name)
    if not file.is_file():
        raise FileNotFoundError(f"model: {os.fspath(folder)!r} has no {name}")
    return read_json_object(file, _MAX_JSON_BYTES, "model")
