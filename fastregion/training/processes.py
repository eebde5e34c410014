"""The processes of a run: one, or several under torchrun or accelerate, which share a model.

Several processes hold the whole model each (DDP), or a shard of it (FSDP2). The same code runs on
CPUs (gloo) and on GPUs (nccl).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["Processes", "gathered", "is_first_process", "sharded_like"]

# How long processes wait for each other: one of them looks at all rows before the start.
_PATIENCE = timedelta(hours=3)


class Processes:
    """This process among all of a run.

    Attributes:
        device: where it computes.
        index: which process this is, from 0.
        count: how many there are.
        sharded: whether they share one copy of the weights (FSDP2).
    """

    def __init__(self, *, fsdp: bool) -> None:
        """Join the process group that the launcher's environment names, if any."""
        if _is_true("ACCELERATE_USE_DEEPSPEED"):
            raise NotImplementedError("DeepSpeed: not supported; use accelerate's FSDP or DDP")
        try:
            from accelerate import (  # type: ignore[import-untyped, unused-ignore]
                Accelerator,
                InitProcessGroupKwargs,
            )
        except ImportError as error:
            raise ImportError(
                'training needs accelerate: pip install "fastregion[train]"'
            ) from error
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        # Under a bare torchrun, accelerate joins processes on CPUs only where it is told of them.
        cpu = launched > 1 and not torch.cuda.is_available()
        # Autocast, scaling and wrapping are done here, alike for all kinds of processes.
        self._accelerator = Accelerator(
            mixed_precision="no",
            cpu=cpu,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
        self.device: torch.device = self._accelerator.device
        self.index: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        if self.count != launched:
            raise RuntimeError(f"processes: {launched} were launched, but {self.count} have joined")
        self.sharded = (fsdp or _is_true("ACCELERATE_USE_FSDP")) and self.count > 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0

    def wrap(self, step: nn.Module) -> nn.Module:
        """The module to call in place of ``step``, which is moved or sharded in place."""
        step.to(self.device)
        if self.sharded:
            return _shard(step)
        if self.count == 1:
            return step
        # A batch may leave out a part of the model: rows without masks, say.
        return DistributedDataParallel(
            step,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=True,
        )

    @contextmanager
    def accumulating(self, model: nn.Module, more: bool) -> Iterator[None]:
        """Run a micro-batch; where more are to come, gradients stay in their process."""
        unsynced: AbstractContextManager[Any] = nullcontext()
        if isinstance(model, DistributedDataParallel) and more:
            unsynced = model.no_sync()
        if self.sharded:
            model.set_requires_gradient_sync(not more)  # type: ignore[operator]
        with unsynced:
            yield

    def sums(self, values: Sequence[Tensor | float]) -> list[float]:
        """Sums over the processes, as numbers."""
        local = torch.stack(
            [torch.as_tensor(v, dtype=torch.float64, device=self.device) for v in values]
        )
        total: Tensor = self._accelerator.reduce(local, "sum")
        return total.tolist()

    def from_first(self, value: int) -> int:
        """The first process's value."""
        return round(self.sums([value if self.is_first else 0])[0])

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group."""
        from accelerate.state import (  # type: ignore[import-untyped, unused-ignore]
            AcceleratorState,
            GradientState,
        )

        self._accelerator.end_training()
        # accelerate remembers its settings for the life of a process; another run has others.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def _shard(step: nn.Module) -> nn.Module:
    """Shard parameters over all processes; what sits in a ``ModuleList`` is gathered by itself.

    Parameters are gathered in float32, so that results are those of DDP in every precision.
    """
    from torch.distributed.fsdp import fully_shard

    layers = [layer for part in step.modules() if isinstance(part, nn.ModuleList) for layer in part]
    for layer in reversed(layers):  # inner ones first
        if any(True for _ in layer.parameters()):
            fully_shard(layer)
    fully_shard(step)
    return step


def gathered(tensor: Tensor) -> Tensor:
    """A tensor put together of its shards, on all processes; any other as it is."""
    # A DTensor, told without importing its class, which takes seconds.
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def sharded_like(value: Tensor, tensor: Any) -> Tensor:
    """The inverse: a tensor that all processes have, in the shards of another."""
    if not hasattr(tensor, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, tensor.device_mesh, tensor.placements)


def is_first_process() -> bool:
    """Whether the launcher, if any, calls this process the first; known without joining."""
    return os.environ.get("RANK", "0") == "0"


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1")
