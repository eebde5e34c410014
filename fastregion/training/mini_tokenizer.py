"""Trains mini's byte-level BPE tokenizer on the sentences of scenes."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from fastregion.language import Tokenizer
from fastregion.models.mini.config import MiniConfig
from fastregion.scenes import EVALUATION_SEEDS, generate_scene
from fastregion.scenes.outlines import SHAPES
from fastregion.scenes.textures import PATTERNS
from fastregion.scenes.wording import compare, exchanges

_MOST_REGIONS = 3  # of a comparison


def _sentences(num_scenes: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    for seed in range(EVALUATION_SEEDS, EVALUATION_SEEDS + num_scenes):
        scene = generate_scene(seed)
        for region in scene.regions:
            for exchange in exchanges(region.facts, rng, extra=6):
                yield f"\n{exchange.prompt}\n"
                yield exchange.answer
        if len(scene.regions) > 1:
            for _ in range(4):
                exchange_or_none = compare(scene.regions[:_MOST_REGIONS], rng)
                if exchange_or_none is not None:
                    yield f"\n{exchange_or_none.prompt}\n"
                    yield exchange_or_none.answer


def train_tokenizer(config: MiniConfig, *, num_scenes: int = 400) -> Tokenizer:
    """Learns the merges; any text remains encodable, byte by byte.

    Args:
        config: Vocabulary size and the ids of the special tokens and region names.
        num_scenes: Scenes whose sentences are the corpus.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = [f"<Prompt{k}>" for k in range(len(config.region_token_ids))]
    trainer = trainers.BpeTrainer(
        vocab_size=config.decoder.vocab_size,
        special_tokens=["<pad>", "<bos>", "<eos>", *names],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_sentences(num_scenes), trainer)
    # Names of regions are words of an answer, not marks to be dropped from it.
    values = json.loads(backend.to_str())
    for token in values["added_tokens"]:
        token["special"] = token["content"] not in names
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(values)))


def hard_tokens(tokenizer: Tokenizer, vocab_size: int) -> torch.Tensor:
    """Which tokens tell what is learned last: bool ``[vocab_size]``.

    Shapes, patterns, and how regions compare.
    """
    words = {part for word in (*SHAPES, *PATTERNS) for part in word.split("-")}
    words -= {"shaped"}  # the second half of words that are already told
    words |= {"left", "right", "above", "below", "inside", "around", "touching", "overlapping"}
    words |= {"yes", "no", "none", *(f"<prompt{k}>" for k in range(_MOST_REGIONS))}
    found = torch.zeros(vocab_size, dtype=torch.bool)
    for token_id in range(tokenizer.vocab_size):
        found[token_id] = tokenizer.decode([token_id]).strip().lower() in words
    return found


@functools.cache
def pattern_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that pattern words are written with."""
    return frozenset(token for word in PATTERNS for token in tokenizer.encode(f" {word}"))
