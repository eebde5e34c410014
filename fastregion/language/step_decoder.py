"""Reading prompts and writing tokens one at a time, for any decoder with a cache.

A subclass says what its layers compute (``_layers_at``, ``embed``, ``logits``); three ways to
attend share them:

* ``prefill`` of prompts, packed without padding: ``ops.cross_attention``;
* ``prefill`` of prompts that continue shared ones: ``ops.decode_attention`` in small blocks;
* ``step``, one new token per sequence against the cache: ``ops.decode_attention``.

Everything runs in the dtype of the weights; autocast has no effect.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from fastregion.language.attention_limits import head_padding
from fastregion.language.cache import KVCache
from fastregion.language.packed import PackedPrompts
from fastregion.ops import append_kv_, cross_attention, decode_attention

__all__ = ["Attend", "StepDecoder", "inference"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_D = TypeVar("_D", bound="StepDecoder")
# (layer, queries [rows, H, D], keys [rows, KV, D], values) -> [rows, H, D]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def inference(
    method: Callable[Concatenate[_D, _P], _R],
) -> Callable[Concatenate[_D, _P], _R]:
    """Run without gradients and in the decoder's own dtype, whatever the caller's context."""

    @functools.wraps(method)
    def run(self: _D, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return run


class StepDecoder(ABC):
    """Prefill and decoding steps; a subclass sets the attributes.

    Attributes:
        hidden_size: width of an embedding.
        vocab_size: number of tokens.
        max_positions: positions that can be read.
        num_layers, num_kv_heads, head_dim: of the attention.
        dtype, device: those of the weights.
    """

    hidden_size: int
    vocab_size: int
    max_positions: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Embeddings ``[n, hidden]`` of token ids ``[n]`` that stand at positions ``[n]``."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``[n, vocab]`` of hidden states ``[n, hidden]``."""

    @abstractmethod
    def _layers_at(self, positions: Tensor, highest: int) -> Callable[[Tensor, Attend], Tensor]:
        """All layers for rows at these positions, of which ``highest`` is the largest.

        They take rows ``[n, hidden]`` to the hidden states that ``logits`` takes. The queries, keys
        and values that they attend with are ``head_dim`` wide, or padded with zeros to a multiple
        of 8.
        """

    @property
    def longest(self) -> int:
        """Tokens that a sequence can grow to: the last of the context is written and never read."""
        return self.max_positions + 1

    @property
    def padding(self) -> int:
        """Columns that widen a head to a multiple of 8, which the operators need."""
        return head_padding(self.head_dim)

    def check(self, prompts: PackedPrompts) -> None:
        """Raise unless this decoder can read the prompts.

        Raises:
            TypeError: ``prompts`` is not ``PackedPrompts`` or has another dtype.
            ValueError: another hidden size or device, or more positions than the model has.
        """
        if not isinstance(prompts, PackedPrompts):
            raise TypeError(f"prompts: expected PackedPrompts, got {type(prompts).__name__}")
        if prompts.hidden_size != self.hidden_size:
            raise ValueError(
                f"prompts: hidden size must be the decoder's {self.hidden_size}, "
                f"got {prompts.hidden_size}"
            )
        if prompts.embeddings.dtype != self.dtype:
            raise TypeError(
                f"prompts: embeddings must have the decoder's dtype {self.dtype}, "
                f"got {prompts.embeddings.dtype}; convert them with prompts.to(dtype=...)"
            )
        if prompts.embeddings.device != self.device:
            raise ValueError(
                f"prompts: must be on the decoder's device {self.device}, "
                f"got {prompts.embeddings.device}; move them with prompts.to(device)"
            )
        highest = int(prompts.positions.max())
        if highest >= self.max_positions:
            raise ValueError(
                "prompts: positions must be below the decoder's max_position_embeddings "
                f"{self.max_positions}, got {highest}"
            )

    @inference
    def prefill(self, prompts: PackedPrompts, cache: KVCache | None = None) -> Tensor:
        """Read the prompts.

        Args:
            prompts: ``B`` prompts that fit this decoder (see ``check``).
            cache: where to keep keys and values, from ``new_cache``; None keeps none. If it stands
                on a prefix, the prompts see that too, and what it held before ``extend``.

        Returns:
            The last layer's normalised hidden states, ``[total_tokens, hidden]``.
        """
        bounds = prompts.cu_seqlens
        rows, columns = _places(prompts)

        def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if cache is None or cache.prefix(index) is None:
                out = self._attend_in_prompts(q, k, v, bounds)
                if cache is not None:
                    append_kv_(*cache.layers[index], k, v, rows, columns)
                return out
            out, _ = decode_attention(
                q,
                *cache.layers[index],
                cache.lengths,
                cu_seqlens_q=bounds,
                rows=cache.rows,
                scale=self.head_dim**-0.5,
                prefix=cache.prefix(index),
                k_new=k,
                v_new=v,
            )
            return out

        layers = self._layers_at(prompts.positions, int(prompts.positions.max()))
        return layers(prompts.embeddings, attend)

    def _attend_in_prompts(self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Each token of a prompt to those up to itself."""
        out, _ = cross_attention(
            q,
            k,
            v,
            scale=self.head_dim**-0.5,
            causal=True,
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_k=cu_seqlens,
        )
        return out

    @inference
    def new_cache(
        self,
        prompts: PackedPrompts,
        prefix: KVCache | None = None,
        prefix_of: Sequence[int] = (),
    ) -> KVCache:
        """An empty cache for these prompts, to be filled by ``prefill``.

        Args:
            prompts: ``B`` prompts.
            prefix: a filled cache of the same decoder; the prompts continue its sequences.
            prefix_of: with ``prefix``, which of its sequences each prompt continues.
        """
        last = prompts.positions.index_select(0, prompts.cu_seqlens[1:].long() - 1)
        return KVCache(
            num_layers=self.num_layers,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim + self.padding,
            lengths=prompts.lengths,
            positions=last + 1,
            dtype=self.dtype,
            prefix=prefix,
            prefix_of=prefix_of,
        )

    @inference
    def step(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        """Append one token to each sequence.

        Args:
            token_ids: int64 ``[B]``, the newest token of each sequence.
            cache: filled by ``prefill``; grows by one column.

        Returns:
            Logits of the next token, ``[B, vocab]``.
        """
        layers = self._layers_at(cache.positions, cache.highest_position)
        embeddings = self.embed(token_ids, cache.positions)
        cache.advance()

        def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out, _ = decode_attention(
                q,
                *cache.layers[index],
                cache.lengths,
                rows=cache.rows,
                scale=self.head_dim**-0.5,
                prefix=cache.prefix(index),
                k_new=k,
                v_new=v,
            )
            return out

        return self.logits(layers(embeddings, attend))


def _places(prompts: PackedPrompts) -> tuple[Tensor, Tensor]:
    """Row and column of every token ``[total_tokens]`` in a cache that holds the prompts."""
    bounds = prompts.cu_seqlens.long()
    rows = torch.repeat_interleave(bounds.diff(), output_size=prompts.total_tokens)
    return rows, torch.arange(prompts.total_tokens, device=bounds.device) - bounds[rows]
