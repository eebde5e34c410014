"""Prompts that a decoder has read: continued, searched and scored as often as wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fastregion.language.cache import KVCache
from fastregion.language.decoder import step_decoder
from fastregion.language.packed import PackedPrompts
from fastregion.language.step_decoder import StepDecoder

__all__ = ["ReadPrompts", "cache_maker", "read_prompts", "reader"]


@dataclass(frozen=True, eq=False)
class ReadPrompts:
    """``B`` prompts with their keys and values; ``generate`` takes it for prompts, or for prefixes.

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
    prefixes: PackedPrompts | ReadPrompts | None = None,
    prefix_of: Sequence[int] | None = None,
) -> ReadPrompts:
    """Read prompts once, to continue or score them several times, or as the prefixes of others.

    Args:
        decoder: as for ``generate``; its weights must not change while the result is used.
        prompts: as for ``generate``.
        prefixes: as for ``generate``.
        prefix_of: as for ``generate``.

    Raises:
        TypeError, ValueError, NotImplementedError: see ``generate``.
    """
    return reader(step_decoder(decoder), decoder, prompts, prefixes, prefix_of)()


def reader(
    model: StepDecoder,
    decoder: nn.Module,
    prompts: PackedPrompts | ReadPrompts,
    prefixes: PackedPrompts | ReadPrompts | None = None,
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
        _check_reader("prompts", model, decoder, prompts)
        if prefixes is not None or prefix_of is not None:
            raise ValueError("prefixes: must be left out when prompts have been read already")
        return lambda: prompts
    new_cache = cache_maker(model, decoder, prompts, prefixes, prefix_of)

    def read() -> ReadPrompts:
        cache = new_cache()
        hidden = model.prefill(prompts, cache)
        return ReadPrompts(decoder, cache, hidden[prompts.cu_seqlens[1:].long() - 1])

    return read


def cache_maker(
    model: StepDecoder,
    decoder: nn.Module,
    prompts: PackedPrompts,
    prefixes: PackedPrompts | ReadPrompts | None,
    prefix_of: Sequence[int] | None,
) -> Callable[[], KVCache]:
    """Check as ``reader`` does; the result is an empty cache on a filled one of what is shared."""
    model.check(prompts)
    if prefixes is None or prefix_of is None:
        if prefixes is not None or prefix_of is not None:
            raise ValueError("prefixes: must be given together with prefix_of, got one of them")
        return lambda: model.new_cache(prompts)
    if isinstance(prefixes, ReadPrompts):
        _check_reader("prefixes", model, decoder, prefixes)
        if prefixes.cache.stands_on_prefix:
            raise ValueError("prefixes: must be whole, got prompts that were read behind others")
    else:
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

    def make() -> KVCache:
        if isinstance(prefixes, ReadPrompts):
            shared = prefixes.cache
        else:
            shared = model.new_cache(prefixes)
            model.prefill(prefixes, shared)
        return model.new_cache(prompts, shared, prefix_of)

    return make


def _check_reader(name: str, model: StepDecoder, decoder: nn.Module, read: ReadPrompts) -> None:
    if read.decoder is not decoder:
        raise ValueError(f"{name}: must have been read by the decoder, not by another one")
    if (read.last.dtype, read.last.device) != (model.dtype, model.device):
        raise ValueError(
            f"{name}: must have been read in the decoder's dtype and on its device, {model.dtype} "
            f"on {model.device}, got {read.last.dtype} on {read.last.device}; read them again"
        )
