"""What benchmarks of captioners share: a small vocabulary, and the published way of decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
import torch
from torch import Tensor

from fastregion.language import Tokenizer

__all__ = ["byte_tokenizer", "published_answer"]


def byte_tokenizer(
    special: Sequence[str], bos: str | None, names: Mapping[str, str] | None = None
) -> Tokenizer:
    """Every byte is a token, behind the special ones; a BOS token where asked for.

    Args:
        special: texts of special tokens, whose ids begin at 0.
        bos: which of them begins a text; None for none.
        names: as for ``Tokenizer``.
    """
    letters = [*special, *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, merges=[])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    if bos is not None:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, special.index(bos))]
        )
    return Tokenizer(backend, names)


def published_answer(decoder: Any, embeddings: Tensor, num_tokens: int) -> list[int]:
    """Tokens that transformers' ``generate`` writes behind one prompt ``[T, hidden]``."""
    output = decoder.generate(
        inputs_embeds=embeddings[None],
        attention_mask=torch.ones(1, len(embeddings), dtype=torch.long),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    tokens: list[int] = output[0].tolist()
    return tokens
