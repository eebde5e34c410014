"""Pix2Cap's captions of the segments that are kept, beside the published ones of all queries.

The caption head at full size (six layers of width 768, 30,522 words), random weights, float32; a
picture with 200 queries of which 20 become segments. A word of one caption takes 66 million
multiply-adds, and a step has to read 264 MB of weights at least: the floor is the bandwidth.
Captions have four words here, 20 to 25 in the published data: ours grows with the length, the
published way with its square.

Peers: "published" captions all queries and, for each word, reads every caption from its beginning
and computes the logits behind each of its words. "kept, no cache" does the same for the kept
queries alone.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fastregion.benchmarking.measure import Case, Ways
from fastregion.language import generate
from fastregion.models.pix2cap.caption_head import CaptionHead
from fastregion.models.pix2cap.config import TextDecoderConfig
from fastregion.models.training_steps import init_meta_parameters

__all__ = ["CASES"]

_NUM_QUERIES, _NUM_KEPT = 200, 20
_NEW_TOKENS = 4
_BEGIN = 101


@lru_cache(maxsize=1)
def _head() -> CaptionHead:
    with torch.device("meta"):
        head = CaptionHead(TextDecoderConfig())
    init_meta_parameters(head, 0)
    return head.eval()


@torch.inference_mode()
def _ours(head: CaptionHead, object_features: Tensor) -> list[list[int]]:
    prompts = head.prompts(object_features, _BEGIN)
    found = generate(head, prompts, max_new_tokens=_NEW_TOKENS, eos_token_ids=())
    return [caption.token_ids for caption in found]


@torch.inference_mode()
def _published(head: CaptionHead, object_features: Tensor) -> list[list[int]]:
    tokens = torch.full((len(object_features), 1), _BEGIN, device=object_features.device)
    for step in range(_NEW_TOKENS):
        logits = head(object_features, tokens)[:, -1]
        if step:  # no word follows itself
            logits.scatter_(1, tokens[:, -1:], -torch.inf)
        tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
    found: list[list[int]] = tokens[:, 1:].tolist()
    return found


def _make(device: torch.device) -> Ways:
    head = _head().to(device)
    generator = torch.Generator().manual_seed(0)
    size = head.config.object_feature_size
    features = torch.randn(_NUM_QUERIES, 2, size, generator=generator).to(device)
    kept = torch.randperm(_NUM_QUERIES, generator=generator)[:_NUM_KEPT]
    weights = sum(p.numel() * p.element_size() for p in head.parameters())

    def published() -> list[list[int]]:
        found = _published(head, features)
        return [found[k] for k in kept.tolist()]

    return Ways(
        ours=lambda: _ours(head, features[kept]),
        peers={
            "published": published,
            "kept, no cache": lambda: _published(head, features[kept]),
        },
        bytes=_NEW_TOKENS * weights,
    )


CASES = (
    Case(
        operator="Pix2Cap captions",
        shape=f"{_NUM_KEPT} of {_NUM_QUERIES} queries, {_NEW_TOKENS} tokens",
        dtype="float32",
        make=_make,
    ),
)
