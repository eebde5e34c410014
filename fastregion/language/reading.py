"""Prompts that a decoder has read: continued, searched and scored as often as wanted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fastregion.language.cache import KVCache
from fastregion.language.decoder import IncrementalDecoder
from fastregion.language.packed import PackedPrompts

__all__ = ["ReadPrompts", "read_prompts", "reader"]


@dataclass(frozen=True, eq=False)
class ReadPrompts:
    """``B`` prompts with their keys and values; ``generate`` and its like take it for prompts.

    Attributes:
        decoder: which has read them.
        cache: their keys and values; it must not go on itself, see ``KVCache.fork``.
        last: ``[B, hidden]``, normalised hidden states of the last tokens, from which the first new
            tokens are predicted.
    """

    decoder: nn.Module
    cache: KVCache
    last: Tensor

    @property
    def batch_size(self) -> int:
        """Number of prompts."""
        return self.cache.batch_size

    def __len__(self) -> int:
        return self.batch_size

    def branch(self, rows: Sequence[int]) -> ReadPrompts:
        """The prompts of these indices, repeats allowed, without reading them again."""
        return ReadPrompts(self.decoder, self.cache.branch(rows), self.last[list(rows)])


def read_prompts(
    decoder: nn.Module,
    prompts: PackedPrompts,
    *,
    prefixes: PackedPrompts | None = None,
    prefix_of: Sequence[int] | None = None,
) -> ReadPrompts:
    """Read prompts once, to continue or score them several times.

    Args:
        decoder: a transformers ``LlamaForCausalLM`` or ``Qwen2ForCausalLM``.
        prompts: as for ``generate``.
        prefixes: as for ``generate``.
        prefix_of: as for ``generate``.

    Raises:
        TypeError, ValueError, NotImplementedError: see ``generate``.
    """
    return reader(IncrementalDecoder(decoder), decoder, prompts, prefixes, prefix_of)()


def reader(
    model: IncrementalDecoder,
    decoder: nn.Module,
    prompts: PackedPrompts | ReadPrompts,
    prefixes: PackedPrompts | None = None,
    prefix_of: Sequence[int] | None = None,
) -> Callable[[], ReadPrompts]:
    """Check the prompts of a decoder and what they share; the result reads them.

    Args:
        model: what reads.
        decoder: its weights.
        prompts: as for ``generate``; there is nothing left to do for those that are read.
        prefixes: as for ``generate``.
        prefix_of: as for ``generate``.
    """
    if isinstance(prompts, ReadPrompts):
        if prompts.decoder is not decoder:
            raise ValueError("prompts: must have been read by the decoder, not by another one")
        if prefixes is not None or prefix_of is not None:
            raise ValueError("prefixes: must be left out when prompts have been read already")
        return lambda: prompts
    model.check(prompts)
    if prefixes is None or prefix_of is None:
        if prefixes is not None or prefix_of is not None:
            raise ValueError("prefixes: must be given together with prefix_of, got one of them")
        return functools.partial(_read, model, decoder, prompts, None, ())
    model.check(prefixes)
    if len(prefix_of) != len(prompts):
        raise ValueError(
            f"prefix_of: must name a prefix for each of {len(prompts)} prompts, "
            f"got {len(prefix_of)} numbers"
        )
    for prompt, index in enumerate(prefix_of):
        if not 0 <= index < len(prefixes):
            raise ValueError(
                f"prefix_of: must be in 0..{len(prefixes) - 1}, got {index} for prompt {prompt}"
            )
    return functools.partial(_read, model, decoder, prompts, prefixes, prefix_of)


def _read(
    model: IncrementalDecoder,
    decoder: nn.Module,
    prompts: PackedPrompts,
    prefixes: PackedPrompts | None,
    prefix_of: Sequence[int],
) -> ReadPrompts:
    shared: KVCache | None = None
    if prefixes is not None:
        shared = model.new_cache(prefixes)
        model.prefill(prefixes, shared)
    cache = model.new_cache(prompts, shared, prefix_of)
    hidden = model.prefill(prompts, cache)
    return ReadPrompts(decoder, cache, hidden[prompts.cu_seqlens[1:].long() - 1])
