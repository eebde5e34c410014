"""What a run tells while it goes on: a line per step, TensorBoard, a progress bar, a picture."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["METRICS", "Metrics", "read_metrics"]

METRICS = "metrics.jsonl"


class Metrics:
    """Rows of numbers, one for each step, on the process that writes.

    Args:
        folder: of the run.
        step: how many steps are done; what an interrupted run wrote about later ones is removed.
        num_steps: of the run; None where it ends by the clock.
        tensorboard: whether to write its files too.
        enabled: False on other processes, where nothing happens.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(
        self, folder: Path, *, step: int, num_steps: int | None, tensorboard: bool, enabled: bool
    ) -> None:
        self._enabled = enabled
        self._board: Any = None
        if enabled:
            _rewind(folder / METRICS, step)
            self._file = (folder / METRICS).open("a", encoding="utf-8")
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._bar = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not enabled,
        )
        # The bar shows the share that is done: a run by the clock has no last step.
        self._of = "" if num_steps is None else f"/{num_steps}"
        done = round(1000 * step / num_steps) if num_steps else 0
        self._shown = self._bar.add_task(
            "", total=1000, completed=done, step=f"{step}{self._of}", told=""
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if self._enabled:
            self._file.close()
            if self._board is not None:
                self._board.close()

    def add(self, row: Mapping[str, Any], progress: float) -> None:
        """Tell of a step; numbers that are not finite become null."""
        if not self._enabled:
            return
        numbers = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._file.write(json.dumps(numbers) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in numbers.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, row["step"])
        told = f"loss {row['loss']:.3f}, {row['tokens_per_second']:,.0f} tokens/s"
        step = f"{row['step']}{self._of}"
        self._bar.update(self._shown, completed=1000 * progress, step=step, told=told)


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The rows of a run; a last line that was cut off is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


def _rewind(file: Path, step: int) -> None:
    """Drop the rows behind a step, so that none is there twice."""
    if not file.exists():
        return
    kept = [row for row in read_metrics(file) if row["step"] <= step]
    part = file.with_name(file.name + ".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    os.replace(part, file)
