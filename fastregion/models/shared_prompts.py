"""Prompts that begin alike: what they share is read by the decoder, and kept, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

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

    def whole(self) -> PackedPrompts:
        """The prompts with their beginnings, nothing shared; labels are left out."""
        parts = [
            part
            for index, prefix in enumerate(self.prefix_of)
            for part in (self.prefixes.select([prefix]), self.prompts.select([index]))
        ]
        lengths = [part.total_tokens for part in parts]
        ends = torch.tensor([0, *lengths]).cumsum(0)[::2]
        return PackedPrompts(
            torch.cat([part.embeddings for part in parts]),
            ends.to(self.prompts.cu_seqlens),
            torch.cat([part.positions for part in parts]),
        )
