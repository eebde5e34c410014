"""Averaging of weights between processes that do not wait for each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.multiprocessing import get_context


class SharedAverage:
    """A common point in shared memory that the weights of several processes are drawn to.

    Now and then a process takes the mean of its own weights and the common point, and leaves that
    mean behind as the new common point: local SGD without a barrier, so that on a busy machine the
    faster process never waits for the slower one.

    Args:
        num_weights: Weights in all.
        processes: How many processes exchange.
    """

    def __init__(self, num_weights: int, processes: int) -> None:
        context = get_context("spawn")
        self._lock = context.Lock()
        self._barrier = context.Barrier(processes)
        self._point = torch.zeros(num_weights)
        self._filled = torch.zeros(1, dtype=torch.bool)
        for tensor in (self._point, self._filled):
            tensor.share_memory_()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def exchange(self, parameters: Sequence[Tensor]) -> None:
        """Moves the parameters and the common point to their mean."""
        own = nn.utils.parameters_to_vector(parameters)
        with self._lock:
            if self._filled:
                own = (own + self._point) / 2
            self._point.copy_(own)
            self._filled.fill_(True)
        nn.utils.vector_to_parameters(own, parameters)

    @torch.no_grad()
    def settle(self, parameters: Sequence[Tensor]) -> None:
        """Exchanges a last time, waits for all, and gives every process the same weights."""
        self.exchange(parameters)
        self._barrier.wait()
        nn.utils.vector_to_parameters(self._point, parameters)
