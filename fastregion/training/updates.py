"""From gradients to new weights: averaged over targets, clipped, applied."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from fastregion.training.ema import MovingAverage
from fastregion.training.optimizers import build_optimizers, set_learning_rate
from fastregion.training.processes import gathered
from fastregion.training.recipe import Recipe
from fastregion.training.task import Task

__all__ = ["Updates"]


class Updates:
    """The updates of a task's trained parameters.

    Attributes:
        optimizers: AdamW, or Muon and AdamW.
        scaler: keeps float16 gradients in range; idle in other precisions.
        average: of the weights, where the recipe asks for one.
    """

    def __init__(self, task: Task, recipe: Recipe, device: torch.device) -> None:
        """Call it when the model lies as it is trained: moved, or sharded."""
        self.optimizers = build_optimizers(task, recipe.optimizer)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        trained = {name: p for name, p in task.step.named_parameters() if p.requires_grad}
        self.average = None if recipe.ema is None else MovingAverage(trained, recipe.ema)
        self._parameters = list(trained.values())
        self._clip = math.inf if recipe.clip is None else recipe.clip

    def backward(self, total: Tensor) -> None:
        """Add the gradient of a sum of losses."""
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]

    def apply(self, *, rate: float, gradient_factor: float, step: int) -> float:
        """Update the weights, and forget the gradient.

        Args:
            rate: learning rate.
            gradient_factor: what turns the sum that the gradient is into the mean.
            step: how many updates there are with this one.

        Returns:
            The norm of the mean gradient before it was clipped. Not finite in float16: the update
            was left out, and later ones are scaled less.

        Raises:
            FloatingPointError: the gradient is not finite in another precision; nothing was
                updated.
        """
        set_learning_rate(self.optimizers, rate)
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        torch._foreach_mul_(gradients, gradient_factor)
        norm = clip_grad_norm_(self._parameters, self._clip)
        value = float(gathered(norm))
        if not math.isfinite(value) and not self.scaler.is_enabled():
            raise FloatingPointError(f"gradient: must be finite, got a norm of {value}")
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        if self.average is not None:
            self.average.update(step)
        return value
