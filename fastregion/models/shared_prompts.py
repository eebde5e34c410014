"""Prompts that begin alike: what they share is read by the decoder, and kept, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastregion.language import PackedPrompts

__all__ = ["SharedPrompts"]


@dataclass(frozen=True, eq=False)
class SharedPrompts:
    """Prompts cut in two; the fields are arguments of ``language.generate``.

    Attributes:
        prompts: what follows the prefix in each; positions go on from there.
        prefixes: the beginnings.
        prefix_of: for each prompt, the index of its beginning.
    """

    prompts: PackedPrompts
    prefixes: PackedPrompts
    prefix_of: Sequence[int]
