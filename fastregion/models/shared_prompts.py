"""Prompts that begin alike: what they share is read by the decoder, and kept, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastregion.language import PackedPrompts, ReadPrompts

__all__ = ["SharedPrompts"]


@dataclass(frozen=True, eq=False)
class SharedPrompts:
    """Prompts cut in two; the fields are arguments of ``language.generate``.

    Attributes:
        prompts: what follows the prefix in each; positions go on from there.
        prefixes: the beginnings, or what a decoder has made of them already.
        prefix_of: for each prompt, the index of its beginning.
    """

    prompts: PackedPrompts
    prefixes: PackedPrompts | ReadPrompts
    prefix_of: Sequence[int]

    def select(self, indices: Sequence[int]) -> SharedPrompts:
        """The prompts with these indices, in this order, on the same beginnings.

        Raises:
            ValueError, IndexError: as for ``PackedPrompts.select``.
        """
        chosen = self.prompts.select(indices)
        return SharedPrompts(chosen, self.prefixes, [self.prefix_of[i] for i in indices])
