"""What a system brings to the training loop: samples from rows, batches of them, and a loss.

The loop (:mod:`fastregion.training.loop`) knows nothing of pictures or prompts; a system
(:mod:`fastregion.training.systems`) knows nothing of optimisers, processes or checkpoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from fastregion.models.base import Captioner
from fastregion.training.batches import Batches, Loading
from fastregion.training.data import Record

__all__ = ["Loss", "Task"]


class Loss(NamedTuple):
    """The loss of a batch as a sum, so that batches of any size are put together rightly.

    The loop divides the sum of ``total`` over the micro-batches and processes of a step by the sum
    of ``targets`` over them: the mean over all targets of the step, however they were split.

    Attributes:
        total: float32 scalar, differentiable: the sum over targets.
        targets: float32 scalar without gradient: how many targets (tokens; or 1 where a published
            loss is normalised within its batch).
        parts: further sums for the log, detached, divided by ``targets`` likewise; every batch has
            the same names.
    """

    total: Tensor
    targets: Tensor
    parts: Mapping[str, Tensor] = {}


class Task(ABC):
    """A captioner that is trained, and how.

    Attributes:
        captioner: what is trained; its parameters that require a gradient, to be exact.
        step: the module that the loop calls, and that DDP or FSDP wraps: ``step(batch) -> Loss``.
            It holds ``captioner.model`` under the name ``model``, and depends on nothing but its
            forward being called: layers in a ``ModuleList`` are called too, never looked into.
    """

    captioner: Captioner
    step: nn.Module

    @abstractmethod
    def sample(self, record: Record, rng: np.random.Generator) -> Any:
        """Make a row ready: a CPU sample. Runs in workers.

        All chance comes from ``rng``, which depends on the seed, the epoch and the row only.

        Raises:
            BadRow: the row cannot be trained on.
        """

    @abstractmethod
    def num_tokens(self, sample: Any) -> int:
        """Tokens of the decoder that a sample takes: what batches are filled by."""

    @abstractmethod
    def collate(self, samples: Sequence[Any]) -> Any:
        """A batch for ``step``, on the CPU; it has ``to(device)``."""

    @abstractmethod
    def decoded(self, sample: Any) -> str:
        """The text of a sample for people, what is learned between ``[[`` and ``]]``.

        A system with its own stream is given a batch instead.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what ``fastregion.load`` reads, under the published names."""

    def batches(self, loading: Loading) -> Batches | None:
        """The system's own stream of batches; None for those of the recipe's rows."""
        return None

    def set_progress(self, progress: float) -> None:
        """Hear, before each step, which share of the run is done, in 0..1."""
        return

    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters of ``step`` by their published names; what is not the model's, by ours."""
        named = {}
        for name, parameter in self.step.named_parameters():
            inside = name.removeprefix("model.")
            known = name if inside == name else self.captioner.layout.published(inside)
            named[known] = parameter
        return named
