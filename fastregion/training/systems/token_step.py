"""The step of every system that learns the tokens of packed prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fastregion.language import PackedPrompts
from fastregion.models.shared_prompts import SharedPrompts
from fastregion.models.training_steps import token_loss
from fastregion.training.task import Loss

__all__ = ["TokenStep"]


class TokenStep(nn.Module):
    """Cross entropy of the labelled tokens of a batch.

    Args:
        model: what is trained.
        decoder: the transformers causal language model inside it.
        encode: a batch to prompts with labels, differentiable in the model.
    """

    def __init__(
        self,
        model: nn.Module,
        decoder: nn.Module,
        encode: Callable[[Any], PackedPrompts | SharedPrompts],
    ) -> None:
        super().__init__()
        self.model = model
        self._parts = decoder, encode  # a part of the model must not be registered twice

    def forward(self, batch: Any) -> Loss:
        """The sum over the targets of a batch, and their number."""
        decoder, encode = self._parts
        prompts = encode(batch)
        assert isinstance(prompts, PackedPrompts)  # prompts with labels are whole
        return Loss(*token_loss(decoder, prompts))
