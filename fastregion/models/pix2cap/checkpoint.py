"""Checkpoints of Pix2Cap: the published weights as one file, and our folder.

The published file, ``model_state_dict.pt``, is a flat dictionary of tensors; settings and
vocabularies are not part of it. Beside it may lie

    config.json                            the published settings; without it their defaults
    tokenizer_bert/  tokenizer_clip/       vocabularies; without them they are downloaded

Our folder has the same tensors under the same names in ``model.safetensors``, ``config.json``,
``tokenizer.json`` (captions) and ``class_tokenizer.json`` (class names). Nothing is ever executed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fastregion.language import Tokenizer
from fastregion.language.known_vocabularies import bert_tokenizer, clip_tokenizer
from fastregion.models.checkpoint import CONFIG, read_json
from fastregion.models.pix2cap.config import Pix2CapConfig
from fastregion.models.weights import Layout

__all__ = [
    "CLASS_TOKENIZER",
    "PUBLISHED",
    "read_config",
    "read_tokenizers",
    "save_published",
]

PUBLISHED = Layout(
    {
        "backbone.": "backbone.",
        "criterion.": "criterion.",
        "pixel_decoder.": "sem_seg_head.pixel_decoder.",
        "predictor.": "sem_seg_head.predictor.",
    }
)
CLASS_TOKENIZER = "class_tokenizer.json"

# Folders of the two vocabularies, and where they are published.
_CAPTIONS = ("tokenizer_bert", "bert-base-uncased")
_CLASSES = ("tokenizer_clip", "openai/clip-vit-base-patch32")
_VOCABULARY_FILES = ["tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"]


def read_config(folder: Path, class_tokenizer: Tokenizer) -> Pix2CapConfig:
    """The settings beside the published file; what the vocabulary decides is taken from it."""
    config = Pix2CapConfig()
    if (folder / CONFIG).is_file():
        config = Pix2CapConfig.from_dict(read_json(folder, CONFIG))
    return replace(config, text=replace(config.text, vocab_size=len(class_tokenizer)))


def read_tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizers of captions and of class names.

    Raises:
        FileNotFoundError: they are neither in the folder nor can they be downloaded.
    """
    return bert_tokenizer(_vocabulary(folder, *_CAPTIONS)), clip_tokenizer(
        _vocabulary(folder, *_CLASSES)
    )


def _vocabulary(folder: Path, name: str, published: str) -> Path:
    if (folder / name).is_dir():
        return folder / name
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(published, allow_patterns=_VOCABULARY_FILES))
    except OSError as error:  # what the library raises for missing networks, files and rights
        raise FileNotFoundError(
            f"model: {os.fspath(folder)!r} has no folder {name!r}, and the vocabulary "
            f"{published!r} cannot be downloaded ({type(error).__name__})"
        ) from error


def save_published(model: nn.Module, file: Path) -> None:
    """Write the published flat dictionary, tied weights under both names."""
    state = {
        PUBLISHED.published(name): tensor.contiguous()
        for name, tensor in model.state_dict().items()
    }
    scratch = file.with_name(f".saving-{file.name}")
    try:
        torch.save(state, scratch)
        os.replace(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)
