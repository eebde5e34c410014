"""A run in a checkpoint, and a checkpoint back in a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from fastregion.training import state
from fastregion.training.batches import Batches
from fastregion.training.checkpoints import (
    Checkpoints,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from fastregion.training.processes import Processes
from fastregion.training.run_folder import RunFolder
from fastregion.training.settings import from_mapping
from fastregion.training.task import Task
from fastregion.training.updates import Updates

__all__ = ["Clock", "Snapshots", "save_model"]

_WEIGHTS, _OPTIMIZER, _AVERAGE = "weights.safetensors", "optimizer.safetensors", "ema.safetensors"
_RUN = "run.json"


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Where a run stands.

    Attributes:
        num_steps: how many steps it has; None where it ends by the clock.
        step: how many are done.
        seconds: how long they took.
    """

    num_steps: int | None
    step: int = 0
    seconds: float = 0.0

    def after_step(self, seconds: float) -> Clock:
        """The clock after one more step, which took so long."""
        return replace(self, step=self.step + 1, seconds=self.seconds + seconds)

    def progress(self, minutes: float | None) -> float:
        """Share of the run that is done, where it lasts for ``num_steps`` or for ``minutes``."""
        if self.num_steps is not None:
            return min(self.step / self.num_steps, 1.0)
        assert minutes is not None
        return min(self.seconds / (60 * minutes), 1.0)


class Snapshots:
    """Saves and restores what decides how a run goes on.

    A checkpoint holds the trained weights and stored buffers, the optimisers' memory by the names
    of parameters, the moving average, the scaler, and for every process its place in the data and
    its random numbers: safetensors and JSON. Frozen weights are not in it; they come from where the
    run started, and a digest tells whether they are the same.
    """

    def __init__(
        self,
        folder: Path,
        keep_last: int,
        processes: Processes,
        task: Task,
        updates: Updates,
        batches: Batches,
        frozen: str,
    ) -> None:
        """Args as the attributes of a run; ``frozen`` is the digest of its frozen weights."""
        self._disk = Checkpoints(folder, keep_last)
        self._processes, self._step = processes, task.step
        self._updates, self._batches, self._frozen = updates, batches, frozen

    @property
    def last_step(self) -> int:
        """The step of the last checkpoint; 0 where there is none."""
        latest = self._disk.latest()
        return 0 if latest is None else read_json(latest / _RUN)["clock"]["step"]

    def save(self, clock: Clock) -> None:
        """Write a checkpoint, which all processes must do together."""
        processes, part = self._processes, self._disk.part(clock.step)
        if processes.is_first:
            self._disk.begin(clock.step)
        processes.wait()
        for name, tensors in self._tensors().items():
            values = state.whole(tensors(), keep=processes.is_first)
            if processes.is_first:
                write_tensors(part / name, values)
            del values  # one file's at a time
        own = {
            "random": state.random_state(processes.device),
            "batches": self._batches.state_dict(),
        }
        write_json(part / _process_file(processes.index), own)
        if processes.is_first:
            run = {
                "clock": asdict(clock),
                "num_processes": processes.count,
                "scaler": self._updates.scaler.state_dict(),
                "frozen": self._frozen,
            }
            write_json(part / _RUN, run)
        processes.wait()
        if processes.is_first:
            self._disk.finish(clock.step)
        processes.wait()

    def restore(self) -> Clock | None:
        """Go to the last checkpoint, if there is one.

        Raises:
            ValueError: it is damaged, of another number of processes, or of another model or data.
        """
        latest = self._disk.latest()
        if latest is None:
            return None
        try:
            return self._restore(latest)
        except KeyError as error:
            raise ValueError(f"checkpoint: {str(latest)!r} is damaged: it lacks {error}") from error

    def _restore(self, latest: Path) -> Clock:
        run = read_json(latest / _RUN)
        processes, updates = self._processes, self._updates
        if run["num_processes"] != processes.count:
            raise ValueError(
                f"checkpoint: {str(latest)!r} is of {run['num_processes']} processes, whose places "
                f"in the data it holds; got {processes.count}"
            )
        if run["frozen"] != self._frozen:
            raise ValueError(
                f"checkpoint: {str(latest)!r} was made with other frozen weights; "
                "is start_from what it was?"
            )
        state.load_weights(self._step, read_tensors(latest / _WEIGHTS))
        state.load_optimizers(self._step, updates.optimizers, read_tensors(latest / _OPTIMIZER))
        if updates.average is not None:
            state.copy_into(updates.average.values, read_tensors(latest / _AVERAGE))
        if updates.scaler.is_enabled():
            updates.scaler.load_state_dict(run["scaler"])
        own = read_json(latest / _process_file(processes.index))
        self._batches.load_state_dict(own["batches"])
        state.set_random_state(own["random"], processes.device)
        return from_mapping(Clock, run["clock"], "clock")

    def _tensors(self) -> dict[str, Callable[[], dict[str, Tensor]]]:
        """What each file holds."""
        updates = self._updates
        files = {
            _WEIGHTS: lambda: state.weight_tensors(self._step),
            _OPTIMIZER: lambda: state.optimizer_tensors(self._step, updates.optimizers),
        }
        if (average := updates.average) is not None:
            files[_AVERAGE] = lambda: average.values
        return files


def save_model(task: Task, updates: Updates, folder: RunFolder, processes: Processes) -> None:
    """Write the trained captioner, with averaged weights where there are any; all together."""
    values = dict(task.step.state_dict(keep_vars=True))
    if updates.average is not None:
        values |= updates.average.values
    whole = state.whole(values, keep=processes.is_first)
    if processes.is_first:
        part = folder.model.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        task.step.eval()
        with state.with_values(task.step, whole):
            task.save(part)
        task.step.train()
        folder.put_model(part)


def _process_file(index: int) -> str:
    return f"process-{index:04}.json"
