"""Facts as classes: what mini's vision tower learns first, before there is a decoder to teach it.

A sentence tells a fact in one of its forty tokens, through a decoder that at first does not look at
the picture. A linear layer for each fact teaches the tower the same facts many times faster; it is
thrown away after training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.scenes import COLOR_TERMS
from fastregion.scenes.facts import Facts
from fastregion.scenes.outlines import SHAPES
from fastregion.scenes.textures import PATTERNS

UNKNOWN = -1
_NONE = "none"
_CLASSES: dict[str, tuple[str, ...]] = {
    "color": COLOR_TERMS,
    "second": (_NONE, *COLOR_TERMS),
    "pattern": PATTERNS,
    "shape": (_NONE, *SHAPES),
    "hole": (_NONE, "hole"),
    "background": (_NONE, *COLOR_TERMS),
    "tone": (_NONE, "light", "dark"),
}


def fact_labels(facts: Facts) -> list[int]:
    """The class of each fact, :data:`UNKNOWN` for a pattern that cannot be told."""
    words = {
        "color": facts.color,
        "second": facts.second or _NONE,
        "pattern": facts.pattern,
        "shape": facts.shape or _NONE,
        "hole": "hole" if facts.hole else _NONE,
        "background": facts.background or _NONE,
        "tone": facts.tone or _NONE,
    }
    return [
        UNKNOWN if (word := words[name]) is None else classes.index(word)
        for name, classes in _CLASSES.items()
    ]


def unknown_facts() -> list[int]:
    """The labels of a region of which nothing is known."""
    return [UNKNOWN] * len(_CLASSES)


class FactHeads(nn.Module):
    """Reads facts out of a region's tokens: one attention query and one linear layer for each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.1 * torch.randn(len(_CLASSES), width))
        self.keys = nn.Linear(width, width)
        self.heads = nn.ModuleList(nn.Linear(width, len(classes)) for classes in _CLASSES.values())

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """The sum over regions of the mean over facts of their cross entropies.

        Args:
            tokens: ``[R, n, width]``, the regions' tokens.
            labels: ``[R, facts]`` from :func:`fact_labels`.
        """
        scores = self.queries @ self.keys(tokens).transpose(1, 2)  # [R, facts, n]
        pooled = (scores / tokens.shape[-1] ** 0.5).softmax(dim=-1) @ tokens
        losses = [
            F.cross_entropy(
                head(pooled[:, k]).float(), labels[:, k], ignore_index=UNKNOWN, reduction="sum"
            )
            for k, head in enumerate(self.heads)
        ]
        return torch.stack(losses).mean()
