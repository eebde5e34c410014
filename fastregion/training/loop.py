"""The training loop: one for all systems, on one process or many, that can be taken up again.

A step is: micro-batches forward and backward; the gradient's mean over all targets of all
micro-batches and processes; its norm clipped; the weights updated. Whatever decides the next step
is in a checkpoint, so a run that was killed and taken up again ends with the same weights, on CPUs
bit for bit.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastregion.training.batches import Item
from fastregion.training.data import Records
from fastregion.training.loading import open_batches, open_rows
from fastregion.training.loss_curve import draw_loss_curve
from fastregion.training.metrics import METRICS, Metrics, read_metrics
from fastregion.training.processes import Processes
from fastregion.training.recipe import Recipe
from fastregion.training.run_folder import RunFolder, require_libraries
from fastregion.training.schedule import learning_rate_factor
from fastregion.training.snapshots import Clock, Snapshots, save_model
from fastregion.training.state import frozen_fingerprint, seed_everything
from fastregion.training.stopping import StopRequest
from fastregion.training.systems import build_task
from fastregion.training.task import Loss, Task
from fastregion.training.updates import Updates

__all__ = ["train"]


def train(recipe: Recipe, output: str | Path, *, task: Task | None = None) -> bool:
    """Train as a recipe says; a folder that holds an unfinished run of it is continued.

    The folder gets ``recipe.json``, ``metrics.jsonl`` (a line per step), ``tensorboard/``,
    ``checkpoints/`` and, at the end, ``loss.png`` and ``model/``, the trained captioner. Under
    ``torchrun`` or ``accelerate launch`` all processes call this, and see the same folder.

    SIGTERM and SIGINT end the run after the step at hand, with a checkpoint.

    Args:
        recipe: what to train, and how.
        output: the folder, made if it does not exist.
        task: what is trained, where it is not the recipe's system that makes it.

    Returns:
        Whether the run is finished; False where it was asked to stop.

    Raises:
        ImportError: an optional library that the recipe needs is not installed.
        ValueError: the folder holds a run of another recipe; data or model do not fit the recipe;
            a step without targets.
        FloatingPointError: the loss or the gradient is not finite; the last checkpoint stays.
    """
    require_libraries(tensorboard=recipe.tensorboard)
    folder = RunFolder(Path(output))
    processes = Processes(fsdp=recipe.fsdp)
    try:
        if processes.is_first:
            folder.claim(recipe)
        processes.wait()
        with StopRequest() as stop:
            rows = open_rows(recipe, processes, folder.path)  # before weights are loaded
            run = _Run(recipe, folder, processes, task or build_task(recipe), rows)
            try:
                return run.go(stop)
            finally:
                run.batches.close()
    finally:
        processes.close()


class _Run:
    """What a run is made of."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        processes: Processes,
        task: Task,
        rows: Records | None,
    ) -> None:
        self.recipe, self.folder, self.processes, self.task = recipe, folder, processes, task
        if processes.sharded:
            _check_sharded(recipe)
        frozen = frozen_fingerprint(task.step)
        self.model = processes.wrap(task.step.train())
        self.updates = Updates(task, recipe, processes.device)
        seed_everything(recipe.seed, processes.index)
        self.batches = open_batches(
            task, recipe, rows, process=processes.index, num_processes=processes.count
        )
        self.snapshots = Snapshots(
            folder.checkpoints,
            recipe.keep_last,
            processes,
            task,
            self.updates,
            self.batches,
            frozen,
        )
        self.clock = self.snapshots.restore() or Clock(num_steps=self._count_steps())

    def go(self, stop: StopRequest) -> bool:
        """Train to the end, or until asked to stop: whether it is the end."""
        if self.progress >= 1 and self.folder.is_finished():
            return True
        saved = self.clock
        items = iter(self.batches)
        with Metrics(
            self.folder.path,
            step=self.clock.step,
            num_steps=self.clock.num_steps,
            tensorboard=self.recipe.tensorboard,
            enabled=self.processes.is_first,
        ) as metrics:
            while self.progress < 1:
                row, stopping = self._step(items, stop)
                metrics.add(row, self.progress)
                if stopping or self.progress >= 1 or self._is_due(saved):
                    self.snapshots.save(self.clock)
                    saved = self.clock
                if stopping and self.progress < 1:
                    return False
        if self.processes.is_first:
            draw_loss_curve(read_metrics(self.folder.path / METRICS), self.folder.loss_curve)
        # Last of all: where it is, the run is finished.
        save_model(self.task, self.updates, self.folder, self.processes)
        self.processes.wait()
        return True

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return self.clock.progress(self.recipe.minutes)

    def _step(self, items: Iterator[Item], stop: StopRequest) -> tuple[dict[str, Any], bool]:
        """Update the weights once; what to tell about it, and whether to stop."""
        recipe, clock, started = self.recipe, self.clock, time.monotonic()
        self.task.set_progress(self.progress)
        sums: dict[str, Tensor | float] = defaultdict(float)
        for micro in range(recipe.accumulation):
            item = next(items)
            with self.processes.accumulating(self.model, more=micro + 1 < recipe.accumulation):
                loss = self._forward(item.batch)
                self.updates.backward(loss.total)
            sums["loss"] += loss.total.detach()
            sums["targets"] += loss.targets
            sums["samples"] += item.samples
            sums["tokens"] += item.tokens
            for name, part in loss.parts.items():
                sums[f"loss/{name}"] += part
        sums["stop"] = float(stop.made)
        sums["seconds"] = time.monotonic() - started
        totals = dict(zip(sums, self.processes.sums(list(sums.values())), strict=True))
        self._check(totals)

        factor = learning_rate_factor(recipe.schedule, clock.step, self.progress, clock.num_steps)
        rate = factor * recipe.optimizer.learning_rate
        norm = self.updates.apply(
            rate=rate,
            # Gradients are means over processes of sums over targets.
            gradient_factor=self.processes.count / totals["targets"],
            step=clock.step + 1,
        )
        seconds = totals["seconds"] / self.processes.count
        self.clock = clock.after_step(seconds)
        row = {
            "step": self.clock.step,
            **_told(totals),
            "epoch": item.epoch,
            "learning_rate": rate,
            "gradient_norm": norm,
            "seconds": round(self.clock.seconds, 3),
            "tokens_per_second": totals["tokens"] / seconds,
        }
        return row, totals["stop"] > 0

    def _forward(self, batch: Any) -> Loss:
        dtype = self.recipe.autocast_dtype
        with torch.autocast(self.processes.device.type, dtype=dtype, enabled=dtype is not None):
            loss: Loss = self.model(batch.to(self.processes.device))
        return loss

    def _check(self, totals: Mapping[str, float]) -> None:
        """Raise before the weights are touched, on all processes alike."""
        step = self.clock.step + 1
        if not math.isfinite(totals["loss"]):
            parts = ", ".join(f"{name} {value}" for name, value in totals.items() if "loss" in name)
            raise FloatingPointError(
                f"loss: must be finite, got {parts} at step {step}; the weights were not changed, "
                f"and the last checkpoint is that of step {self.snapshots.last_step}"
            )
        if not totals["targets"] > 0:
            raise ValueError(f"targets: step {step} has nothing to learn, got no target")

    def _is_due(self, saved: Clock) -> bool:
        """Whether it is time for a checkpoint, in steps or in minutes since the last one."""
        every, minutes = self.recipe.save_every, self.recipe.save_minutes
        return (every is not None and self.clock.step - saved.step >= every) or (
            minutes is not None and self.clock.seconds - saved.seconds >= 60 * minutes
        )

    def _count_steps(self) -> int | None:
        """How many steps the run has; None where it ends by the clock."""
        recipe = self.recipe
        if recipe.epochs is None:
            return recipe.steps
        # The first process's number: where samples are packed, it is an estimate.
        own = self.batches.batches_per_epoch() if self.processes.is_first else 0
        batches = self.processes.from_first(own)
        return max(1, math.ceil(recipe.epochs * batches / recipe.accumulation))


def _check_sharded(recipe: Recipe) -> None:
    """Raise for what cannot be done with shards of matrices."""
    if recipe.optimizer.name == "muon":
        raise NotImplementedError(
            "optimizer.name: muon needs whole matrices, which FSDP shards; use adamw, or DDP"
        )
    if recipe.precision == "fp16":
        raise NotImplementedError("precision: fp16 does not go with FSDP; use bf16, or DDP")


def _told(totals: Mapping[str, float]) -> dict[str, float]:
    """Means over targets of the losses, and counts."""
    losses = {k: v / totals["targets"] for k, v in totals.items() if k.partition("/")[0] == "loss"}
    return losses | {name: totals[name] for name in ("targets", "samples", "tokens")}
