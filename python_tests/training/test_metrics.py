"""What a run tells: rows, TensorBoard, the picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from toy_training import toy_recipe, toy_task

from fastregion.training.loop import train
from fastregion.training.loss_curve import draw_loss_curve
from fastregion.training.metrics import METRICS, Metrics, read_metrics


def _row(step: int, loss: float = 1.0) -> dict[str, Any]:
    return {"step": step, "loss": loss, "learning_rate": 1e-3, "tokens_per_second": 5.0}


def _write(folder: Path, start: int, rows: list[dict[str, Any]], *, board: bool = False) -> None:
    with Metrics(folder, step=start, num_steps=9, tensorboard=board, enabled=True) as metrics:
        for row in rows:
            metrics.add(row, 0.5)


def test_rows_behind_the_step_of_a_resumed_run_go(tmp_path: Path) -> None:
    _write(tmp_path, 0, [_row(1), _row(2), _row(3)])
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "lo')  # killed while it wrote
    _write(tmp_path, 2, [_row(3, loss=7.0)])
    rows = read_metrics(tmp_path / METRICS)
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 1.0), (3, 7.0)]


@pytest.mark.parametrize(("num_steps", "shown"), [(9, "step 3/9 "), (None, "step 3 ")])
def test_the_bar_counts_steps(
    num_steps: int | None, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Metrics(tmp_path, step=2, num_steps=num_steps, tensorboard=False, enabled=True) as metrics:
        metrics.add(_row(3), 0.25)
    told = capsys.readouterr().err
    assert shown in told
    assert " 25%" in told


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    _write(tmp_path, 0, [_row(1) | {"gradient_norm": math.inf}], board=True)
    text = (tmp_path / METRICS).read_text()
    assert json.loads(text, parse_constant=lambda name: 1 / 0)["gradient_norm"] is None


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with Metrics(tmp_path, step=0, num_steps=9, tensorboard=True, enabled=False) as metrics:
        metrics.add(_row(1), 0.1)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_has_every_number(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(toy_recipe(steps=3, tensorboard=True), tmp_path, task=toy_task())
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = read_metrics(tmp_path / METRICS)
    assert set(events.Tags()["scalars"]) == rows[0].keys() - {"step"}
    for name in ("loss", "learning_rate", "loss/text"):
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in told] == [1, 2, 3]
        for (_, value), row in zip(told, rows, strict=True):
            assert math.isclose(value, row[name], rel_tol=1e-6, abs_tol=1e-12)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    for count in (1, 300):
        rows = [_row(k + 1, loss=3 / (1 + k / 40)) for k in range(count)]
        draw_loss_curve(rows, tmp_path / "loss.png")
        with Image.open(tmp_path / "loss.png") as picture:
            assert picture.size == (840, 480)
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
