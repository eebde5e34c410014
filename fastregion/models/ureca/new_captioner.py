"""An InternVL2.5 checkpoint as a URECA captioner whose mask encoder has still to be trained."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn

from fastregion.language import Tokenizer
from fastregion.models.checkpoint import read_config
from fastregion.models.ureca.captioner import UrecaCaptioner
from fastregion.models.ureca.checkpoint import UrecaLayout
from fastregion.models.ureca.config import UrecaConfig
from fastregion.models.ureca.prompts import NEW_TOKENS
from fastregion.models.weights import load_weights, read_stored, stored_dtype

__all__ = ["has_mask_encoder", "new_captioner"]

_DEVIATION = 0.02  # of the new tokens' embeddings (initializer_range)


def has_mask_encoder(folder: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint is one of URECA, and not of InternVL2.5 alone.

    Raises:
        FileNotFoundError, ValueError: as for ``load_weights``.
    """
    return any(tensor.key.startswith("mask_") for tensor in read_stored(folder))


def new_captioner(
    folder: str | os.PathLike[str],
    *,
    num_mask_token: int = 8,
    arch: int = 3,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> UrecaCaptioner:
    """An InternVL2.5 checkpoint with a new mask encoder, for stage 1.

    The mask encoder has the published first values. The three new tokens get embeddings drawn from
    a normal distribution of deviation 0.02 and, in the head, the mean of the old rows; the
    published training leaves both as they are.

    Args:
        folder: a checkpoint of InternVL2.5.
        num_mask_token: N, mask tokens of a tile.
        arch: which mask encoder.
        dtype: floating-point type of the weights in memory; None for that of the files.
        seed: of the new values.

    Raises:
        FileNotFoundError, ValueError, NotImplementedError: as for
            ``UrecaCaptioner.from_pretrained``.
    """
    values = read_config(folder, UrecaCaptioner.model_type)
    config = UrecaConfig.from_dict(
        {**values, "num_mask_token": num_mask_token, "dynamic_mask_size": True, "arch": arch}
    )
    tokenizer = Tokenizer.from_pretrained(folder)
    for token in NEW_TOKENS:
        tokenizer.backend.add_special_tokens([AddedToken(token, normalized=False, special=True)])
    tokenizer = Tokenizer(tokenizer.backend, tokenizer.names)
    old = config.llm["vocab_size"]
    new = max(old, tokenizer.vocab_size)
    captioner = UrecaCaptioner(
        replace(config, llm={**config.llm, "vocab_size": new}),
        tokenizer,
        dtype=dtype or stored_dtype(folder),
        model_id=Path(folder).resolve().name,
    )
    _resize(captioner.decoder, old)
    load_weights(captioner.model, folder, UrecaLayout.of(config), optional=["mask_tokens."])
    captioner.model.init_weights(seed)
    _grow(captioner.decoder, new, torch.Generator().manual_seed(seed))
    return captioner


def _resize(decoder: Any, count: int) -> None:
    """As many token rows as a file has; they hold nothing yet."""
    for module in (decoder.get_input_embeddings(), decoder.lm_head):
        module.weight = nn.Parameter(module.weight.detach()[:count])


def _grow(decoder: Any, count: int, generator: torch.Generator) -> None:
    """Rows for new tokens: drawn in the embeddings, the mean of the old ones in the head."""
    embedding, head = decoder.get_input_embeddings(), decoder.lm_head
    old = embedding.weight.detach()
    drawn = _DEVIATION * torch.randn(count - len(old), old.shape[1], generator=generator)
    mean = head.weight.detach().float().mean(0, keepdim=True).expand_as(drawn)
    for module, rows in ((embedding, drawn), (head, mean)):
        weight = module.weight.detach()
        module.weight = nn.Parameter(torch.cat((weight, rows.to(weight))))
