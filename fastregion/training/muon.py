"""Muon: orthogonalised momentum for the weight matrices of hidden layers.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. Written here
because torch's own (from 2.9 on) iterates in bfloat16, which CPUs without it only emulate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Coefficients of the quintic a x + b x^3 + c x^5 that drives singular values towards 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values end up in 0.7..1.2.

    Args:
        matrix: ``[rows, columns]``.
        steps: Newton-Schulz iterations.
    """
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.T if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, on AdamW's scale of learning rates.

    An update has a root mean square of about 0.2 times the learning rate, as AdamW's has.

    Args:
        params: Matrices ``[out, in]`` or kernels of convolutions ``[out, in, ...]``; or groups.
        lr: Learning rate.
        momentum: Decay of the mean gradient.
        weight_decay: Decoupled, times the learning rate.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every matrix that has a gradient."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "mean" not in state:
                    state["mean"] = torch.zeros_like(parameter)
                mean = state["mean"].lerp_(parameter.grad, 1 - momentum)
                update = orthogonalized(parameter.grad.lerp(mean, momentum).flatten(1))
                parameter.mul_(1 - rate * group["weight_decay"])
                # A semi-orthogonal [m, n] has a root mean square of max(m, n)^-1/2.
                scale = 0.2 * max(update.shape) ** 0.5
                parameter.add_(update.reshape(parameter.shape), alpha=-rate * scale)
