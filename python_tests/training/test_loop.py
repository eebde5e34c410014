"""The loop in one process: what a step computes, and runs that are cut short anywhere."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from toy_training import ToyRecords, ToyTask, losses, toy_recipe, toy_task

from fastregion.training import checkpoints
from fastregion.training.loop import train
from fastregion.training.recipe import Schedule


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than all the rest of such a run."""
    monkeypatch.setattr("fastregion.training.loop.draw_loss_curve", lambda *_: None)


class _Killed(BaseException):
    """As sudden as a signal for what runs."""


def _kill_at(task: ToyTask, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends before the step that is the ``step``-th of this start."""

    def set_progress(progress: float) -> None:
        task.progress.append(progress)
        if len(task.progress) == step:
            raise _Killed

    monkeypatch.setattr(task, "set_progress", set_progress)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def _assert_equal(one: Path, other: Path) -> None:
    ours, theirs = _weights(one), _weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_step_is_plain_adamw_on_the_mean_over_all_targets(tmp_path: Path) -> None:
    """Two micro-batches with different numbers of targets count as one batch of both."""
    recipe = toy_recipe(steps=3, batch_size=3, accumulation=2, schedule=Schedule(name="constant"))
    train(recipe, tmp_path / "run", task=toy_task(rows=6))

    task = toy_task(rows=6)
    optimizer = torch.optim.AdamW(task.step.parameters(), lr=1e-2, weight_decay=0.1)
    expected = []
    for _ in range(3):  # an epoch is a step, in whatever order
        sequences = [torch.tensor(ToyRecords(6)[k]) for k in range(6)]
        parts = [
            F.cross_entropy(task.step.model(s[:-1]), s[1:], reduction="none") for s in sequences
        ]
        loss = torch.cat(parts).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.step.parameters(), 1.0)
        optimizer.step()
        expected.append(loss.item())
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=1e-6)
    trained = _weights(tmp_path / "run")
    for name, value in task.step.model.named_parameters():
        torch.testing.assert_close(trained[name], value.detach(), atol=1e-6, rtol=1e-5)
    # The means of the micro-batches' means would have been another number.
    halves = [torch.cat(parts[:3]).mean(), torch.cat(parts[3:]).mean()]
    assert abs(sum(halves).item() / 2 - expected[-1]) > 1e-3


@pytest.mark.parametrize("killed_at", [1, 4, 7])
def test_a_killed_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """With dropout, noise in the samples, accumulation, an average of the weights and workers."""
    recipe = toy_recipe(steps=8, accumulation=2, ema=0.9, save_every=2, workers=1)
    settings = {"dropout": 0.3, "noise": True}
    assert train(recipe, tmp_path / "whole", task=toy_task(**settings))
    task = toy_task(**settings)
    _kill_at(task, killed_at, monkeypatch)
    with pytest.raises(_Killed):
        train(recipe, tmp_path / "cut", task=task)
    assert not (tmp_path / "cut" / "model").exists()
    torch.manual_seed(99)  # whatever state the second start finds
    resumed = toy_task(**settings)
    assert train(recipe, tmp_path / "cut", task=resumed)
    # Nothing was done twice but what no checkpoint held.
    assert len(resumed.progress) == 8 - (killed_at - 1) // 2 * 2
    _assert_equal(tmp_path / "whole", tmp_path / "cut")
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


def test_what_a_checkpoint_leaves_out_would_be_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would see a run that forgets its random numbers."""
    recipe = toy_recipe(steps=4, save_every=2)
    train(recipe, tmp_path / "whole", task=toy_task(dropout=0.3))
    task = toy_task(dropout=0.3)
    _kill_at(task, 4, monkeypatch)
    with pytest.raises(_Killed):
        train(recipe, tmp_path / "cut", task=task)
    monkeypatch.setattr("fastregion.training.state.set_random_state", lambda *_: None)
    train(recipe, tmp_path / "cut", task=toy_task(dropout=0.3))
    assert losses(tmp_path / "whole")[:2] == losses(tmp_path / "cut")[:2]
    assert losses(tmp_path / "whole")[2] != losses(tmp_path / "cut")[2]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    recipe = toy_recipe(steps=2)
    train(recipe, tmp_path, task=toy_task())
    before = losses(tmp_path)
    model = (tmp_path / "model").stat()
    again = toy_task()
    assert train(recipe, tmp_path, task=again)
    assert losses(tmp_path) == before
    assert again.progress == []
    assert (tmp_path / "model").stat() == model
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model").rmdir()  # as if killed before it was written
    assert train(recipe, tmp_path, task=toy_task())
    assert _weights(tmp_path)


def test_another_recipe_does_not_get_the_folder(tmp_path: Path) -> None:
    train(toy_recipe(steps=2), tmp_path, task=toy_task())
    with pytest.raises(ValueError, match=r"another recipe; they differ in accumulation \(there 1"):
        train(toy_recipe(steps=2, accumulation=2), tmp_path, task=toy_task())
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate \(there 0\.01, now 0\.02\)"):
        train(toy_recipe(steps=2, learning_rate=0.02), tmp_path, task=toy_task())
    # What changes nothing in the weights may differ.
    assert train(toy_recipe(steps=2, keep_last=5, save_every=1), tmp_path, task=toy_task())


def test_a_run_that_saved_nothing_gives_its_folder_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in a recipe is mended without cleaning up by hand."""
    task = toy_task()
    _kill_at(task, 2, monkeypatch)
    with pytest.raises(_Killed):
        train(toy_recipe(steps=3, accumulation=2), tmp_path, task=task)
    assert train(toy_recipe(steps=2), tmp_path, task=toy_task())
    assert [row["step"] for row in _rows(tmp_path)] == [1, 2]
    with pytest.raises(ValueError, match="another recipe"):
        train(toy_recipe(steps=3), tmp_path, task=toy_task())


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    task = toy_task()
    task.step.poisoned_at = 4 * 4 + 2  # in the fifth batch of 4
    with pytest.raises(
        FloatingPointError, match=r"loss: must be finite, got .*nan at step 5; .* 4"
    ):
        train(toy_recipe(save_every=2), tmp_path, task=task)
    assert _names(tmp_path / "checkpoints") == ["step-00000002", "step-00000004"]
    values = load_file(tmp_path / "checkpoints" / "step-00000004" / "weights.safetensors")
    assert all(torch.isfinite(value).all() for value in values.values())
    assert all(torch.isfinite(value).all() for value in task.step.state_dict().values())
    # Without the poison it goes on from there.
    assert train(toy_recipe(save_every=2), tmp_path, task=toy_task())
    assert len(losses(tmp_path)) == 20


def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    task = toy_task()
    task.step.model.head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match="gradient: must be finite"):
        train(toy_recipe(), tmp_path, task=task)


def test_a_full_disk_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def write(file: Path, values: Any) -> None:
        written.append(file)
        if file.parent.name == "step-00000004.part" and file.name.startswith("optimizer"):
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        original(file, values)

    original = checkpoints.write_tensors
    recipe = toy_recipe(steps=6, save_every=2)
    with monkeypatch.context() as patch:
        patch.setattr("fastregion.training.snapshots.write_tensors", write)
        with pytest.raises(OSError, match="No space left"):
            train(recipe, tmp_path / "cut", task=toy_task())
    assert "step-00000002" in _names(tmp_path / "cut" / "checkpoints")
    assert "step-00000004" not in _names(tmp_path / "cut" / "checkpoints")
    train(recipe, tmp_path / "cut", task=toy_task())
    train(recipe, tmp_path / "whole", task=toy_task())
    _assert_equal(tmp_path / "whole", tmp_path / "cut")
    assert _names(tmp_path / "cut" / "checkpoints") == ["step-00000004", "step-00000006"]


def test_other_files_stay_and_a_foreign_model_is_not_replaced(tmp_path: Path) -> None:
    recipe, folder = toy_recipe(steps=4, save_every=2, keep_last=1), tmp_path / "checkpoints"
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match=r"output: .* holds model, but no recipe\.json of a run"):
        train(recipe, tmp_path, task=toy_task())
    (tmp_path / "model").rmdir()
    train(recipe, tmp_path, task=toy_task())
    others = ("notes.txt", "step-00000009", "step-00000001.part", "step-2.part")
    for name in others:
        (folder / name).touch()
    shutil.rmtree(tmp_path / "model")
    shutil.rmtree(folder / "step-00000004")
    train(recipe, tmp_path, task=toy_task())
    assert _names(folder) == sorted([*others, "step-00000004"])


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(toy_recipe(steps=2), tmp_path, task=toy_task())
    file = tmp_path / "checkpoints" / "step-00000002" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        ValueError,
        match=r"checkpoint: .*weights.safetensors' is missing or dam.* goes on from the checkp",
    ):
        train(toy_recipe(steps=2), tmp_path, task=toy_task())
    file.with_name("run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"checkpoint: .*damaged: it lacks 'num_processes'"):
        train(toy_recipe(steps=2), tmp_path, task=toy_task())


def test_frozen_weights_stay_and_must_be_the_same_when_resumed(tmp_path: Path) -> None:
    def frozen(shift: float) -> ToyTask:
        task = toy_task()
        task.step.model.embedding.weight.requires_grad_(False).add_(shift)
        return task

    recipe = toy_recipe(steps=4)
    train(recipe, tmp_path, task=frozen(0.0))
    stored = load_file(tmp_path / "checkpoints" / "step-00000004" / "weights.safetensors")
    assert "model.embedding.weight" not in stored
    first, after = toy_task().step.model.state_dict(), _weights(tmp_path)
    assert torch.equal(first["embedding.weight"], after["embedding.weight"])
    assert not torch.equal(first["head.weight"], after["head.weight"])
    with pytest.raises(ValueError, match="with other frozen weights; is start_from what it was"):
        train(recipe, tmp_path, task=frozen(1.0))


def test_the_average_is_what_is_saved(tmp_path: Path) -> None:
    recipe = toy_recipe(steps=5, ema=0.5, save_every=1, keep_last=9)
    train(recipe, tmp_path, task=toy_task())
    average = toy_task().step.model.head.weight.detach()
    for step in range(1, 6):
        file = tmp_path / "checkpoints" / f"step-{step:08}" / "weights.safetensors"
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * load_file(file)["model.head.weight"]
    torch.testing.assert_close(_weights(tmp_path)["head.weight"], average)


def test_an_epoch_is_every_row_once(tmp_path: Path) -> None:
    recipe = toy_recipe(steps=None, epochs=2, batch_size=4, accumulation=3)
    task = toy_task(rows=37)
    train(recipe, tmp_path, task=task)
    rows = _rows(tmp_path)
    assert len(rows) == math.ceil(2 * math.ceil(37 / 4) / 3)
    assert sum(row["samples"] for row in rows) >= 2 * 37
    assert task.progress == [k / len(rows) for k in range(len(rows))]


def test_a_run_by_the_clock_ends_and_decays(tmp_path: Path) -> None:
    recipe = toy_recipe(steps=None, minutes=0.3 / 60, schedule=Schedule(name="linear"))
    train(recipe, tmp_path, task=toy_task())
    rows = _rows(tmp_path)
    assert rows[-1]["seconds"] >= 0.3 > rows[-2]["seconds"]
    for before, row in pairwise(rows):
        assert row["learning_rate"] == pytest.approx(1e-2 * (1 - before["seconds"] / 0.3), abs=1e-4)


def test_packed_batches_are_filled_by_tokens(tmp_path: Path) -> None:
    train(toy_recipe(steps=6, batch_size=None, batch_tokens=30), tmp_path, task=toy_task())
    rows = _rows(tmp_path)
    assert max(row["tokens"] for row in rows) <= 30
    assert len({row["samples"] for row in rows}) > 1


def test_bf16_runs_and_learns(tmp_path: Path) -> None:
    train(toy_recipe(steps=12, precision="bf16"), tmp_path / "bf16", task=toy_task())
    train(toy_recipe(steps=12), tmp_path / "fp32", task=toy_task())
    low, high = losses(tmp_path / "bf16"), losses(tmp_path / "fp32")
    assert low != high
    assert low == pytest.approx(high, rel=2e-2)
    assert _weights(tmp_path / "bf16")["head.weight"].dtype == torch.float32


def test_fp16_leaves_out_updates_that_overflow(tmp_path: Path) -> None:
    """The scale is halved then, and is part of a checkpoint."""
    task = toy_task()
    head = task.step.model.head.weight
    calls = iter([math.inf])
    head.register_hook(lambda gradient: gradient * next(calls, 1.0))
    scales, weights = [65536.0], [head.detach().clone()]
    recipe = toy_recipe(steps=8, precision="fp16", save_every=1, keep_last=9)
    train(recipe, tmp_path, task=task)
    for name in _names(tmp_path / "checkpoints"):
        folder = tmp_path / "checkpoints" / name
        scales.append(json.loads((folder / "run.json").read_text())["scaler"]["scale"])
        weights.append(load_file(folder / "weights.safetensors")["model.head.weight"])
    left_out = [torch.equal(a, b) for a, b in pairwise(weights)]
    assert left_out == [b == a / 2 for a, b in pairwise(scales)]
    assert left_out[0]
    assert not left_out[-1]
    norms = [row["gradient_norm"] for row in _rows(tmp_path)]
    assert left_out == [norm is None for norm in norms]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
