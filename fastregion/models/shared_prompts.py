"""Prompts that begin alike: what they share is read by the decoder, and kept, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastregion.language import PackedPrompts, ReadPrefixes

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
    prefixes: PackedPrompts | ReadPrefixes
    prefix_of: Sequence[int]

    def whole(self) -> PackedPrompts:
        """The prompts with their beginnings, nothing shared; labels are left out."""
        known = self.prefixes
        beginnings = known.prompts if isinstance(known, ReadPrefixes) else known
        parts = [
            part
            for index, prefix in enumerate(self.prefix_of)
            for part in (beginnings.select([prefix]), self.prompts.select([index]))
        ]
        lengths = [part.total_tokens for part in parts]
        ends = torch.tensor([0, *lengths]).cumsum(0)[::2]
        return PackedPrompts(
            torch.cat([part.embeddings for part in parts]),
            ends.to(self.prompts.cu_seqlens),
            torch.cat([part.positions for part in parts]),
        )

    def select(self, indices: Sequence[int]) -> SharedPrompts:
        """The prompts with these indices, in this order, on the same beginnings.

        Raises:
            ValueError, IndexError: as for ``PackedPrompts.select``.
        """
        chosen = self.prompts.select(indices)
        return SharedPrompts(chosen, self.prefixes, [self.prefix_of[i] for i in indices])
