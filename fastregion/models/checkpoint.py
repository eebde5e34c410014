"""A captioner's folder: ``config.json``, ``model.safetensors``, ``tokenizer.json``.

Weights are safetensors only: nothing in such a folder is ever executed.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from fastregion.language import Tokenizer

__all__ = ["load_weights", "read_config", "save_folder"]

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
_MAX_CONFIG_BYTES = 1 << 20  # far above any honest one


def save_folder(
    folder: str | os.PathLike[str],
    *,
    config: dict[str, Any],
    model: nn.Module,
    tokenizer: Tokenizer,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a captioner's folder.

    Each file appears whole or not at all; ``config.json``, without which a folder cannot be loaded,
    comes last. Other files in the folder are left alone. Weights shared by two parameters are
    stored once.

    Args:
        folder: made if it does not exist.
        config: JSON-able, with ``model_type``.
        model: the module whose weights are saved; not modified.
        tokenizer: saved in the format of the tokenizers library.
        dtype: floating-point type to store weights in; None keeps theirs.

    Raises:
        NotADirectoryError: ``folder`` is a file.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"folder: {str(target)!r} is a file")
    target.mkdir(parents=True, exist_ok=True)
    if dtype is not None:
        model = copy.deepcopy(model).to(dtype)
    # Inside the target, so that moving a finished file is a rename within one file system.
    with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as scratch:
        save_model(model, os.path.join(scratch, WEIGHTS), metadata={"format": "pt"})
        tokenizer.save(scratch)
        text = json.dumps(config, indent=2, sort_keys=True)
        Path(scratch, CONFIG).write_text(text + "\n", encoding="utf-8")
        # safetensors makes files that only their owner can read.
        shutil.copymode(os.path.join(scratch, CONFIG), os.path.join(scratch, WEIGHTS))
        for name in (WEIGHTS, TOKENIZER, CONFIG):
            os.replace(os.path.join(scratch, name), target / name)


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read ``config.json``.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it is not a JSON object, names no ``model_type`` or is larger than 1 MiB.
    """
    path = _existing(folder, CONFIG)
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(f"model: {str(path)!r} is larger than {_MAX_CONFIG_BYTES} bytes")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # both bad UTF-8 and bad JSON
        raise ValueError(f"model: {str(path)!r} is not valid JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(f"model: {str(path)!r} must be a JSON object with a model_type")
    return config


def load_weights(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Copy ``model.safetensors`` into the model's parameters, in their dtype and device.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or its names and shapes are not exactly the model's.
    """
    path = _existing(folder, WEIGHTS)
    try:
        load_model(model, path, strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"model: {str(path)!r} does not fit the model: {error}") from error


def _existing(folder: str | os.PathLike[str], name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"model: {os.fspath(folder)!r} has no {name}")
    return path
