"""Captions as token ids, the way Pix2Cap was trained, and as texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastregion.language import Generated, PackedPrompts, ReadPrompts, Tokenizer, generate
from fastregion.models.pix2cap.caption_head import MAX_TOKENS, CaptionHead

__all__ = ["BEGIN", "END", "caption_ids", "likeliest_beams", "taught_logits", "tidy"]

BEGIN, END = "[CLS]", "[SEP]"

# Spaces that decoding leaves in front of punctuation, in the order in which they are closed.
_CLOSED = (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re")


def caption_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Begin token, words and end token of a caption.

    Of a caption beyond 38 tokens, the first 40 are read and the last 38 of these are kept: so it
    begins with its second or third word piece, and seems to end where it was cut off. The published
    weights have learned that.
    """
    ids = tokenizer.encode(text)[:MAX_TOKENS][-(MAX_TOKENS - 2) :]
    return [tokenizer.token_id(BEGIN), *ids, tokenizer.token_id(END)]


def taught_logits(
    head: CaptionHead, object_features: Tensor, captions: Sequence[str], tokenizer: Tokenizer
) -> tuple[Tensor, Tensor]:
    """Teacher forcing: what the head predicts when it reads the captions.

    Args:
        head: the caption head.
        object_features: ``[T, 2, D]``, of the object of each caption.
        captions: T texts, at least one.
        tokenizer: the head's.

    Returns:
        Logits ``[N, vocab]`` of the N tokens behind begin tokens, caption by caption, and their ids
        int64 ``[N]``.
    """
    encoded = [caption_ids(text, tokenizer) for text in captions]
    longest = max(map(len, encoded))
    device = object_features.device
    tokens = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in encoded], device=device)
    lengths = torch.tensor([len(ids) for ids in encoded], device=device)
    taught = torch.arange(1, longest, device=device) < lengths[:, None]
    logits = head(object_features, tokens)[:, :-1]
    return logits[taught], tokens[:, 1:][taught]


def likeliest_beams(
    head: CaptionHead,
    prompts: PackedPrompts | ReadPrompts,
    *,
    num_beams: int,
    max_new_tokens: int,
    end: int,
) -> list[Generated]:
    """The published search: the best of the greedy continuations of the likeliest first words.

    Args:
        head: the caption head.
        prompts: those of the captions.
        num_beams: how many first words.
        max_new_tokens: as for ``language.generate``.
        end: id of the end token.
    """
    count = len(prompts)
    rows = [index for index in range(count) for _ in range(num_beams)]
    found = generate(
        head,
        prompts.branch(rows) if isinstance(prompts, ReadPrompts) else prompts.select(rows),
        max_new_tokens=max_new_tokens,
        eos_token_ids=end,
        first_ranks=[*range(num_beams)] * count,
    )
    return [
        max(found[first : first + num_beams], key=lambda one: sum(one.logprobs))
        for first in range(0, len(found), num_beams)
    ]


def tidy(text: str) -> str:
    """A decoded caption without the spaces that decoding has left around punctuation."""
    for mark in _CLOSED[:4]:
        text = text.replace(f" {mark}", mark)
    text = text.replace(" ' ", "'")
    for mark in _CLOSED[4:]:
        text = text.replace(f" {mark}", mark)
    return text.replace(" - ", "-")
