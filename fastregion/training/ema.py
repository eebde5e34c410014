"""A moving average of the weights, which is what a run saves where its recipe asks for one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """``m <- d m + (1 - d) w`` after every step, with ``d = min(decay, (1 + n) / (10 + n))``.

    The decay is smaller in the first steps n, so that the first weights are soon forgotten.

    Attributes:
        values: the averages by name; sharded as the parameters are.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = parameters
        self.values: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self.parameters[name].detach(), 1 - decay)
