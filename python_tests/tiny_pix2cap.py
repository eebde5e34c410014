"""A Pix2Cap small enough for tests: the real layout, twelve queries and the class token."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import tokenizers
import torch

from fastregion.language import Tokenizer
from fastregion.language.known_vocabularies import bert_tokenizer, clip_tokenizer
from fastregion.models.pix2cap import Pix2CapCaptioner, Pix2CapConfig
from fastregion.models.pix2cap.config import (
    DecoderConfig,
    EncoderConfig,
    InferenceConfig,
    TextConfig,
    TextDecoderConfig,
)
from fastregion.vision.focalnet import FocalNetConfig

CLASSES = ("person", "dog", "sky-other-merged", "background")
_TEXT = "a the dog cat sky red blue green left right top is on with ' s - . , ##s ##ing"


def write_vocabularies(folder: Path) -> None:
    """Both, as bare vocabularies, in the folders that stand beside published weights."""
    bert, clip = folder / "tokenizer_bert", folder / "tokenizer_clip"
    for one in (bert, clip):
        one.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (bert / "vocab.txt").write_text("\n".join([*special, *_TEXT.split()]) + "\n", encoding="utf-8")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    entries = [*letters, *(f"{letter}</w>" for letter in letters), "do", "dog</w>"]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    (clip / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (clip / "merges.txt").write_text("#version: 0.2\nd o\ndo g</w>\n", encoding="utf-8")


@functools.cache
def tokenizer_pair() -> tuple[Tokenizer, Tokenizer]:
    with tempfile.TemporaryDirectory() as folder:
        write_vocabularies(Path(folder))
        return (
            bert_tokenizer(Path(folder, "tokenizer_bert")),
            clip_tokenizer(Path(folder, "tokenizer_clip")),
        )


def config(**more: Any) -> Pix2CapConfig:
    words, classes = tokenizer_pair()
    return Pix2CapConfig(
        **{
            "focal": FocalNetConfig(
                embed_dim=8,
                depths=(1, 1, 2, 1),
                focal_levels=(2, 2, 2, 2),
                focal_windows=(3, 3, 3, 3),
            ),
            "encoder": EncoderConfig(convs_dim=32, mask_dim=16, transformer_enc_layers=1),
            "decoder": DecoderConfig(
                hidden_dim=32, num_object_queries=13, nheads=4, dim_feedforward=48, dec_layers=4
            ),
            "text": TextConfig(
                context_length=60, width=16, heads=2, layers=1, vocab_size=len(classes)
            ),
            "text_decoder": TextDecoderConfig(
                object_feature_size=24,
                vocab_size=len(words),
                hidden_size=24,
                num_layers=2,
                attention_heads=2,
                feedforward_size=48,
            ),
            "inference": InferenceConfig(object_mask_threshold=0.3, overlap_threshold=0.3),
            "dim_proj": 16,
            "class_names": CLASSES,
            "thing_contiguous_ids": (0, 1),
            **more,
        }
    )


def captioner(seed: int = 0, **more: Any) -> Pix2CapCaptioner:
    """With random weights that react to what they see."""
    made = Pix2CapCaptioner(config(**more), *tokenizer_pair())
    made.model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if name.endswith(("gamma_1", "gamma_2")):
                parameter.fill_(0.5)
            elif parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=generator)
            elif name.endswith("logit_scale"):
                parameter.fill_(2.5)
    return made
