"""A picture of how the loss fell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["draw_loss_curve"]

_SMOOTHED_OVER = 0.02  # share of the run
_SIZE = (7.0, 4.0)  # inches


def draw_loss_curve(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the loss of each step, its running mean, and the learning rate below.

    Args:
        rows: with ``step``, ``loss`` and ``learning_rate``; at least one.
        file: PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = np.array([row["step"] for row in rows])
    losses = np.array([row["loss"] for row in rows])
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    above.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    above.plot(steps, _running_mean(losses), color="tab:blue", linewidth=1.8)
    above.set_ylabel("loss")
    above.grid(alpha=0.3)
    below.plot(steps, [row["learning_rate"] for row in rows], color="tab:gray")
    below.set_ylabel("learning\nrate")
    below.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    below.set_xlabel("step")
    part = file.with_name(file.name + ".part")
    figure.savefig(part, dpi=120, format="png")
    part.replace(file)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over the steps before and with each one."""
    width = max(1, round(_SMOOTHED_OVER * len(values)))
    sums = np.cumsum(np.concatenate(([0.0], values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    result: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return result
