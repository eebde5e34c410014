"""The text encoder: names of classes to vectors that queries are compared with.

    T_k = u(mean over templates of u(s)),   s: the end-of-text state of "a photo of a <name>." W

A CLIP-like causal transformer; u divides by the length. The name of a class can be anything, so the
vocabulary is open. What stands behind the end of a text cannot be seen by it and is not computed.

Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.language import Tokenizer
from fastregion.models.pix2cap.attention import Attention
from fastregion.models.pix2cap.config import TextConfig
from fastregion.models.pix2cap.templates import TEMPLATES
from fastregion.ops import Linear

__all__ = ["LanguageEncoder", "class_words", "draw_sentences", "normalised"]

_EPSILON = 1e-7  # of lengths
_TEXTS_AT_A_TIME = 512  # bounds the memory of a long list of classes
_NOT_SAID = ("-other", "-merged", "-stuff")  # of the names of COCO's classes


def class_words(name: str) -> str:
    """The name of a class as sentences have it."""
    for suffix in _NOT_SAID:
        name = name.replace(suffix, "")
    return name


def draw_sentences(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    """For each class one of its sentences, as training reads them: commas and plus signs go."""
    drawn = rng.integers(len(TEMPLATES), size=len(names)).tolist()
    return [
        TEMPLATES[index].format(class_words(name).replace(",", "").replace("+", " "))
        for index, name in zip(drawn, names, strict=True)
    ]


def normalised(vectors: Tensor) -> Tensor:
    """Vectors of length 1, in the last dimension."""
    unit: Tensor = vectors / (torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) + _EPSILON)
    return unit


class LayerNorm(nn.Module):
    """A layer norm whose statistics are those of float32, rounded before scale and shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Works on the last dimension."""
        normed = F.layer_norm(
            x.to(torch.promote_types(x.dtype, torch.float32)), self.weight.shape, eps=1e-12
        )
        return normed.to(x.dtype) * self.weight + self.bias


class MLP(nn.Module):
    """Linear, x * sigmoid(1.702 x), linear; four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Works on the last dimension."""
        inner = self.c_fc(x)
        out: Tensor = self.c_proj(inner * torch.sigmoid(1.702 * inner))
        return out


class ResidualBlock(nn.Module):
    """Pre-norm causal attention and MLP."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, D]`` to the same."""
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, causal=True)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class TextTransformer(nn.Module):
    """Token ids ``[B, N]`` to states ``[B, N, D]``."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.resblocks = nn.ModuleList(
            ResidualBlock(config.width, config.heads) for _ in range(config.layers)
        )
        self.ln_final = LayerNorm(config.width)
        nn.init.normal_(self.positional_embedding, std=0.02)

    def forward(self, token_ids: Tensor) -> Tensor:
        """See the class."""
        x = self.token_embedding(token_ids) + self.positional_embedding[: token_ids.shape[1]]
        for block in self.resblocks:
            x = block(x)
        out: Tensor = self.ln_final(x)
        return out


class LanguageEncoder(nn.Module):
    """The transformer and the projection to the width in which queries are compared with texts."""

    def __init__(self, config: TextConfig, dim_proj: int) -> None:
        super().__init__()
        self.lang_encoder = TextTransformer(config)
        self.lang_proj = nn.Parameter(torch.empty(config.width, dim_proj))
        self.logit_scale = nn.Parameter(torch.ones(()))
        nn.init.normal_(self.lang_proj, std=0.02)

    def embed_tokens(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Vectors of texts.

        Args:
            texts: token ids of each, begin and end tokens included; at most the context.

        Returns:
            ``[len(texts), dim_proj]``, of length 1.
        """
        device = self.lang_proj.device
        context = self.lang_encoder.positional_embedding.shape[0]
        for index, text in enumerate(texts):
            if not 1 <= len(text) <= context:
                raise ValueError(
                    f"texts: must have 1 to {context} tokens, got {len(text)} in text {index}"
                )
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found = []
        for start in range(0, len(order), _TEXTS_AT_A_TIME):  # those of a length together
            some = [texts[index] for index in order[start : start + _TEXTS_AT_A_TIME]]
            longest = len(some[-1])
            ids = torch.tensor(
                [[*text, *[text[-1]] * (longest - len(text))] for text in some], device=device
            )
            last = torch.tensor([len(text) - 1 for text in some], device=device)
            states = self.lang_encoder(ids)[torch.arange(len(some), device=device), last]
            found.append(normalised(states @ self.lang_proj))
        back = torch.tensor(order, device=device).argsort()
        return torch.cat(found)[back]

    def embed_texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> Tensor:
        """Vectors ``[len(texts), dim_proj]`` of sentences; too long ones lose their last words."""
        context = self.lang_encoder.positional_embedding.shape[0]
        encoded = [tokenizer.encode(text, add_special_tokens=True) for text in texts]
        return self.embed_tokens(
            [ids if len(ids) <= context else [*ids[: context - 1], ids[-1]] for ids in encoded]
        )

    def embed_classes(
        self,
        names: Sequence[str],
        tokenizer: Tokenizer,
        templates: Sequence[str] = TEMPLATES,
    ) -> Tensor:
        """T: a vector of each class, the mean of those of its sentences.

        Args:
            names: of the classes; any words.
            tokenizer: that of the encoder.
            templates: sentences with ``{}`` in the place of the name.

        Returns:
            ``[len(names), dim_proj]``, of length 1.

        Raises:
            ValueError: a name without a word.
        """
        for index, name in enumerate(names):
            if not class_words(name).strip():
                raise ValueError(f"class_names: must be words, got {name!r} at {index}")
        sentences = [t.format(class_words(name)) for name in names for t in templates]
        vectors = self.embed_texts(sentences, tokenizer)
        mean = vectors.view(len(names), len(templates), -1).mean(1)
        unit: Tensor = mean / torch.linalg.vector_norm(mean, dim=-1, keepdim=True)
        return unit
