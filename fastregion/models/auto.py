"""From a name or a folder to a captioner: the one list of models."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import torch

from fastregion.models import checkpoint
from fastregion.models.base import Captioner

__all__ = ["BUILT_IN", "download", "load"]

# What config.json calls a model, and the class that runs it (imported when needed).
_CLASSES = {
    "fastregion-mini": ("fastregion.models.mini", "MiniCaptioner"),
    "GAR": ("fastregion.models.gar", "GarCaptioner"),
    "llava_llama": ("fastregion.models.dam", "DamCaptioner"),
    "internvl_chat": ("fastregion.models.ureca", "UrecaCaptioner"),
    "pix2cap": ("fastregion.models.pix2cap", "Pix2CapCaptioner"),
}

# Captioners whose weights are part of the package, by name.
BUILT_IN = {"fastregion/mini": Path(__file__).with_name("mini") / "weights"}
_ALIASES = {"mini": "fastregion/mini"}

# Published checkpoints, downloaded by name: settings, vocabulary and weights, no code.
_HUB = (
    "HaochenWang/GAR-1B",
    "HaochenWang/GAR-8B",
    "nvidia/DAM-3B",
    "nvidia/DAM-3B-Self-Contained",
    "nvidia/DAM-3B-Video",
)
_HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "*.model"]
_PIX2CAP_FILE = "model_state_dict.pt"  # published without settings
_PICKLED_FILES = "pytorch_model*.bin"  # of which nothing is executed; where there is nothing else

# Systems whose checkpoints are loaded from files only: they have no names here.
_FROM_FILES = {"ureca": "URECA", "pix2cap": "Pix2Cap"}


def load(name: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Captioner:
    """Load a captioner.

    Args:
        name: ``"fastregion/mini"`` (or ``"mini"``), which needs no download; a published
            checkpoint (``"HaochenWang/GAR-1B"``, ``"HaochenWang/GAR-8B"``, ``"nvidia/DAM-3B"``,
            ``"nvidia/DAM-3B-Self-Contained"``, ``"nvidia/DAM-3B-Video"``), which is downloaded
            once; or a folder with a published checkpoint (of URECA too) or written by
            ``save_pretrained``; or the file ``model_state_dict.pt`` of Pix2Cap's published weights.
        dtype: floating-point type of the weights in memory; None keeps that of a published
            checkpoint, and float32 for mini.

    Returns:
        The captioner, on the CPU, in evaluation mode.

    Raises:
        TypeError: ``name`` is neither a string nor a path.
        FileNotFoundError: a file of the folder is missing, or the download fails.
        ValueError: an unknown name, a folder of an unknown kind of model, or a damaged file.
        NotImplementedError: a configuration that is not supported.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"model: expected a name or a folder, got {type(name).__name__}")
    text = os.fspath(name)
    text = _ALIASES.get(text, text)
    if text in BUILT_IN:
        return _load_folder(BUILT_IN[text], model_id=text, dtype=dtype)
    if os.path.isdir(text):
        return _load_folder(Path(text), dtype=dtype)
    if os.path.isfile(text):
        return _load_file(Path(text), dtype)
    if text in _HUB:
        return _load_folder(download(text), model_id=text, dtype=dtype)
    for word in re.split(r"[^a-z0-9]+", text.lower()):
        if word in _FROM_FILES:
            raise ValueError(
                f"model: {_FROM_FILES[word]} is loaded from its published files, "
                f"got the name {text!r}"
            )
    raise ValueError(f"model: unknown name {text!r}; available: {_known()}")


def download(name: str) -> Path:
    """Download a published checkpoint, once: settings, vocabulary and weights, no code.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: the download fails.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, allow_patterns=_HUB_FILES)
        if not any(Path(folder).rglob("*.safetensors")):
            folder = snapshot_download(name, allow_patterns=[*_HUB_FILES, _PICKLED_FILES])
    except OSError as error:  # what the library raises for missing networks, files and rights
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise FileNotFoundError(
            f"model: {name!r} cannot be downloaded ({type(error).__name__}: {reason}); "
            "a folder with its files will do too"
        ) from error
    return Path(folder)


def _known() -> str:
    return ", ".join([*BUILT_IN, *_HUB, "or a folder with a model"])


def _load_file(file: Path, dtype: torch.dtype | None) -> Captioner:
    """Of the published models, only Pix2Cap is a single file."""
    from fastregion.models.pix2cap import Pix2CapCaptioner

    captioner = Pix2CapCaptioner.from_published(file)
    captioner.model.to(dtype)
    return captioner


def _load_folder(
    folder: Path, model_id: str | None = None, dtype: torch.dtype | None = None
) -> Captioner:
    if (folder / _PIX2CAP_FILE).is_file() and not (folder / checkpoint.CONFIG).is_file():
        return _load_file(folder / _PIX2CAP_FILE, dtype)
    model_type = checkpoint.read_config(folder)["model_type"]
    if model_type not in _CLASSES:
        raise ValueError(
            f"model: {str(folder)!r} holds a model of type {model_type!r}; "
            f"known types: {', '.join(_CLASSES)}"
        )
    module, name = _CLASSES[model_type]
    captioner_class: type[Captioner] = getattr(importlib.import_module(module), name)
    return captioner_class.from_pretrained(folder, model_id=model_id, dtype=dtype)
