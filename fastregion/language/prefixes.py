"""Beginnings that several prompts share: read, and kept, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fastregion.language.cache import KVCache
from fastregion.language.decoder import step_decoder
from fastregion.language.packed import PackedPrompts
from fastregion.language.step_decoder import StepDecoder

__all__ = ["ReadPrefixes", "check_prefixes", "new_cache", "read_prefixes"]


@dataclass(frozen=True, eq=False)
class ReadPrefixes:
    """Beginnings that a decoder has read, to be continued in several calls.

    Attributes:
        prompts: the beginnings.
        cache: the keys and values that the decoder made of them; not to be modified.
    """

    prompts: PackedPrompts
    cache: KVCache

    def __len__(self) -> int:
        return len(self.prompts)


def read_prefixes(decoder: nn.Module, prompts: PackedPrompts) -> ReadPrefixes:
    """Read beginnings, to be continued as often as one likes (``prefixes`` of ``generate``).

    Args:
        decoder: as for ``generate``; its weights must not change while the result is used.
        prompts: as for ``generate``.

    Raises:
        TypeError, ValueError, NotImplementedError: see ``generate``.
    """
    model = step_decoder(decoder)
    model.check(prompts)
    return _read(model, prompts)


def _read(model: StepDecoder, prompts: PackedPrompts) -> ReadPrefixes:
    cache = model.new_cache(prompts)
    model.prefill(prompts, cache)
    return ReadPrefixes(prompts, cache)


def check_prefixes(
    model: StepDecoder,
    prompts: PackedPrompts,
    prefixes: PackedPrompts | ReadPrefixes | None,
    prefix_of: Sequence[int] | None,
) -> tuple[PackedPrompts | ReadPrefixes, Sequence[int]] | None:
    """What the prompts share, checked, or None."""
    if prefixes is None or prefix_of is None:
        if prefixes is not None or prefix_of is not None:
            raise ValueError("prefixes: must be given together with prefix_of, got one of them")
        return None
    model.check(prefixes.prompts if isinstance(prefixes, ReadPrefixes) else prefixes)
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
    return prefixes, prefix_of


def new_cache(
    model: StepDecoder,
    prompts: PackedPrompts,
    shared: tuple[PackedPrompts | ReadPrefixes, Sequence[int]] | None,
) -> KVCache:
    """An empty cache for the prompts, on a filled one of what they share."""
    if shared is None:
        return model.new_cache(prompts)
    prefixes, prefix_of = shared
    known = prefixes if isinstance(prefixes, ReadPrefixes) else _read(model, prefixes)
    return model.new_cache(prompts, known.cache, prefix_of)
