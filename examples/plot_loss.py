"""Draws the loss curve of a training run.

    python examples/plot_loss.py runs/mini/log.jsonl loss.png

Needs matplotlib: pip install "fastregion[plot]".
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

WINDOW = 50  # steps averaged by the dark line


def main(log: Path, out: Path) -> None:
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["regions"] == 1]  # the others are another task
    samples = np.array([row["step"] for row in rows])
    loss = np.array([row["loss"] for row in rows])
    kernel = np.ones(WINDOW) / WINDOW
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axes.plot(samples, loss, color="#b9c8e0", linewidth=0.6)
    axes.plot(samples[WINDOW - 1 :], np.convolve(loss, kernel, "valid"), color="#1f4e9c")
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(which="both", linewidth=0.3)
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
