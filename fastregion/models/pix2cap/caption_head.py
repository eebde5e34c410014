"""The caption head: what an object looks like, in words (a BERT decoder, as in GRiT).

    x = [m_0, m_1, w_0, w_1, ...]      m = LN(P [object, image]),  w_t = LN(word_t + position_t)
    x <- LN(x + Attn(x)),   x <- LN(x + MLP(x))                              in every layer
    logits of word t + 1 = E x[w_t] + b                                E: the table of the words

The two memory rows see each other only; a word sees them and the words up to itself. Memory thus
goes through the layers too, but depends on no word: keys and values of all rows are kept in a
cache, and a caption costs one row a word.

No word follows itself: whatever is written, the same token next has a logit of -10000.

Parameter names are those of the published checkpoints, which are BERT's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.language import PackedPrompts
from fastregion.language.cache import KVCache
from fastregion.language.evaluating import evaluating
from fastregion.language.step_decoder import Attend, StepDecoder, inference
from fastregion.models.pix2cap.config import TextDecoderConfig
from fastregion.ops import Linear, cross_attention

__all__ = ["MAX_TOKENS", "MEMORY", "CaptionHead"]

MEMORY = 2
"""Rows of memory in front of a caption."""
MAX_TOKENS = 40
"""Tokens of the longest caption, begin and end included, in training and in writing."""

_NUM_POSITIONS = 1024
_DROPOUT = 0.1
_REPEATED = -10000.0  # logit of the token that was written last
_GRADIENT_SHARE = 1 / 3  # of the gradient of what the head sees, that goes on into the network


class SelfAttention(nn.Module):
    """The projections of queries, keys and values."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = Linear(hidden_size, hidden_size)
        self.key = Linear(hidden_size, hidden_size)
        self.value = Linear(hidden_size, hidden_size)


class Output(nn.Module):
    """Linear, dropout, and the norm of the sum with what came in."""

    def __init__(self, in_size: int, hidden_size: int) -> None:
        super().__init__()
        self.dense = Linear(in_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=1e-12)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, branch: Tensor, x: Tensor) -> Tensor:
        """Works on the last dimension."""
        out: Tensor = self.LayerNorm(x + self.dropout(self.dense(branch)))
        return out


class BertAttention(nn.Module):
    """Attention, under the published names: ``self`` and ``output``."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.add_module("self", SelfAttention(config.hidden_size))
        self.output = Output(config.hidden_size, config.hidden_size)


class Intermediate(nn.Module):
    """Linear, exact GELU."""

    def __init__(self, hidden_size: int, inner: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, inner)

    def forward(self, x: Tensor) -> Tensor:
        """Works on the last dimension."""
        return F.gelu(self.dense(x))


class BertLayer(nn.Module):
    """Post-norm attention and MLP; whoever calls says how to attend."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.num_heads = config.attention_heads
        self.attention = BertAttention(config)
        self.intermediate = Intermediate(config.hidden_size, config.feedforward_size)
        self.output = Output(config.feedforward_size, config.hidden_size)

    def forward(self, x: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """``[..., D]`` to the same; ``attend`` takes and gives ``[..., heads, head_dim]``."""
        projections = self.attention.get_submodule("self")
        q, k, v = (
            projections.get_submodule(name)(x).unflatten(-1, (self.num_heads, -1))
            for name in ("query", "key", "value")
        )
        x = self.attention.output(attend(q, k, v).flatten(-2), x)
        out: Tensor = self.output(self.intermediate(x), x)
        return out


class Embedding(nn.Module):
    """Words and their positions."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(_NUM_POSITIONS, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=1e-8)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """``[..., D]`` of token ids that stand at positions, both of one shape or broadcast."""
        out: Tensor = self.dropout(
            self.layer_norm(self.words(token_ids) + self.positions(positions))
        )
        return out


class Encoder(nn.Module):
    """The layers, under the published name."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_layers))


class Transformer(nn.Module):
    """The encoder, under the published name."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)


class _ScaledGradient(torch.autograd.Function):
    """The identity; of the gradient, a share goes on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * _GRADIENT_SHARE


class CaptionHead(nn.Module):
    """See the module.

    Attributes:
        attention_dropout: of the attention's weights, in training.
    """

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.object_feature_projection = nn.Sequential(
            Linear(config.object_feature_size, config.hidden_size),
            nn.LayerNorm(config.hidden_size),
        )
        self.embedding = Embedding(config)
        self.transformer = Transformer(config)
        self.attention_dropout = nn.Dropout(_DROPOUT)
        self.output = Linear(config.hidden_size, config.vocab_size)
        self.output.weight = self.embedding.words.weight

    def remember(self, object_features: Tensor) -> Tensor:
        """Memory rows ``[N, 2, D]`` of objects ``[N, 2, object_feature_size]``."""
        seen = _ScaledGradient.apply(object_features)  # type: ignore[no-untyped-call]
        memory: Tensor = self.object_feature_projection(seen)
        return memory

    def forward(self, object_features: Tensor, token_ids: Tensor) -> Tensor:
        """Logits of the token behind each given one.

        Args:
            object_features: ``[N, 2, object_feature_size]``.
            token_ids: int64 ``[N, T]``, the begin token first; padding behind a caption is seen by
                nothing in front of it.

        Returns:
            ``[N, T, vocab]``.
        """
        num_tokens = token_ids.shape[1]
        positions = torch.arange(num_tokens, device=token_ids.device)
        x = torch.cat((self.remember(object_features), self.embedding(token_ids, positions)), 1)
        visible = torch.ones(
            MEMORY + num_tokens, MEMORY + num_tokens, dtype=torch.bool, device=x.device
        ).tril()
        visible[:MEMORY, :MEMORY] = True
        dropout = self.attention_dropout.p if self.training else 0.0

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
            return attended.transpose(1, 2)

        for layer in self.transformer.encoder.layer:
            x = layer(x, attend)
        logits: Tensor = self.output(x[:, MEMORY:])
        return logits

    def prompts(self, object_features: Tensor, begin: int) -> PackedPrompts:
        """What captions continue: memory and the begin token of each object.

        Args:
            object_features: ``[N, 2, object_feature_size]``, N at least 1.
            begin: id of the begin token.
        """
        count, device = len(object_features), object_features.device
        start = torch.full((count, 1), begin, device=device)
        rows = torch.cat(
            (self.remember(object_features), self.embedding(start, torch.zeros_like(start))), 1
        )
        length = MEMORY + 1
        return PackedPrompts(
            rows.flatten(0, 1),
            torch.arange(0, length * count + 1, length, dtype=torch.int32, device=device),
            torch.zeros(length * count, dtype=torch.int64, device=device),
        )

    def step_decoder(self) -> StepDecoder:
        """What writes captions, token by token."""
        return _CaptionDecoder(self)


class _CaptionDecoder(StepDecoder):
    """A caption head, without dropout, as ``language.generate`` drives it."""

    def __init__(self, head: CaptionHead) -> None:
        config, weight = head.config, head.output.weight
        self._head = head
        self.hidden_size, self.vocab_size = config.hidden_size, config.vocab_size
        self.max_positions = MAX_TOKENS
        self.num_layers = config.num_layers
        self.num_kv_heads = config.attention_heads
        self.head_dim = config.hidden_size // config.attention_heads
        self.dtype, self.device = weight.dtype, weight.device

    @property
    def longest(self) -> int:
        return MAX_TOKENS

    @inference
    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        with evaluating(self._head.embedding):
            embeddings: Tensor = self._head.embedding(token_ids, positions)
        return embeddings

    @inference
    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head.output(hidden)
        return logits

    @inference
    def step(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        return super().step(token_ids, cache).scatter_(1, token_ids[:, None], _REPEATED)

    def _layers_at(self, positions: Tensor, highest: int) -> Callable[[Tensor, Attend], Tensor]:
        return self._layers  # positions are part of the embeddings

    def _layers(self, x: Tensor, attend: Attend) -> Tensor:
        for index, layer in enumerate(self._head.transformer.encoder.layer):

            def attend_padded(q: Tensor, k: Tensor, v: Tensor, index: int = index) -> Tensor:
                if self.padding:
                    q, k, v = (F.pad(part, (0, self.padding)) for part in (q, k, v))
                return attend(index, q, k, v)[..., : self.head_dim]

            with evaluating(layer):
                x = layer(x, attend_padded)
        return x

    def _attend_in_prompts(self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
        out = super()._attend_in_prompts(q, k, v, cu_seqlens)
        # The first memory row also sees the second.
        starts = cu_seqlens[:-1].long()
        rows = (starts[:, None] + torch.arange(MEMORY, device=starts.device)).flatten()
        bounds = MEMORY * torch.arange(
            len(starts) + 1, dtype=cu_seqlens.dtype, device=cu_seqlens.device
        )
        memory, _ = cross_attention(
            q[rows],
            k[rows],
            v[rows],
            scale=self.head_dim**-0.5,
            cu_seqlens_q=bounds,
            cu_seqlens_k=bounds,
        )
        out[rows] = memory
        return out
