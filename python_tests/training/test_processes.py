"""Several processes, signals and kills: runs started as programs, two by torchrun."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_training
from forks import fork, fork_group, join, one_thread
from safetensors.torch import load_file
from toy_training import losses, toy_recipe, toy_task

from fastregion.training.loop import train
from fastregion.training.processes import Processes
from fastregion.training.recipe import Optimizer, Recipe
from fastregion.training.stopping import end_with_parent

PROGRAM = Path(toy_training.__file__).with_name("toy_runs.py")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the runs in this process: it takes longer than all the rest."""
    monkeypatch.setattr("fastregion.training.loop.draw_loss_curve", lambda *_: None)


def _launch(run: dict[str, Any]) -> subprocess.Popen[str]:
    """Two processes under torchrun, in a group of their own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [sys.executable, *launcher, str(PROGRAM), json.dumps(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parent)},
    )


def _ends(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


def _run(recipe: Recipe, folder: Path, task: dict[str, Any]) -> Callable[[], object]:
    return lambda: train(recipe, folder, task=toy_task(**task))


def _wait_until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _wait_for_step(folder: Path, step: int) -> None:
    metrics = folder / "metrics.jsonl"
    _wait_until(lambda: metrics.exists() and len(losses(folder)) >= step)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("fsdp", [False, True])
def test_two_processes_give_the_losses_of_one(tmp_path: Path, fsdp: bool) -> None:
    """DDP and FSDP on CPUs, 20 steps, with accumulation, clipping and an average of the weights."""
    shared = {"ema": 0.9, "clip": 0.5, "save_every": 15}
    # 32 rows: two processes then share those that one process takes in a step.
    train(
        toy_recipe(batch_size=4, accumulation=2, **shared), tmp_path / "1", task=toy_task(rows=32)
    )
    recipe = toy_recipe(batch_size=2, accumulation=2, fsdp=fsdp, **shared)
    assert join(fork_group(_run(recipe, tmp_path / "2", {"rows": 32}))) == [0, 0]
    expected = losses(tmp_path / "1")
    assert losses(tmp_path / "2") == pytest.approx(expected, abs=1e-5)
    _assert_close(tmp_path / "1", tmp_path / "2")

    # From step 15 once more: what was put together of shards is taken apart again.
    shutil.rmtree(tmp_path / "2" / "checkpoints" / "step-00000020")
    shutil.rmtree(tmp_path / "2" / "model")
    assert join(fork_group(_run(recipe, tmp_path / "2", {"rows": 32}))) == [0, 0]
    assert losses(tmp_path / "2") == pytest.approx(expected, abs=1e-5)
    _assert_close(tmp_path / "1", tmp_path / "2")


def _assert_close(one: Path, other: Path) -> None:
    ours, theirs = _weights(one), _weights(other)
    assert ours.keys() == theirs.keys()
    for key in ours.keys() - {"seen"}:  # which counts what one process has seen
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-5, rtol=0, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_torchrun_resumes_after_a_kill(tmp_path: Path, fsdp: bool) -> None:
    recipe = {"accumulation": 2, "ema": 0.9, "save_every": 3, "workers": 1, "steps": 12}
    task = {"dropout": 0.3, "noise": True}
    run = {"recipe": {**recipe, "fsdp": fsdp}, "task": task}
    _ends(_launch({"output": str(tmp_path / "whole"), **run}))
    cut = _launch({"output": str(tmp_path / "cut"), **run, "task": {**task, "seconds": 0.2}})
    _wait_for_step(tmp_path / "cut", 8)
    os.killpg(cut.pid, signal.SIGKILL)
    cut.communicate()
    _ends(_launch({"output": str(tmp_path / "cut"), **run}))
    for key, value in _weights(tmp_path / "whole").items():
        assert torch.equal(value, _weights(tmp_path / "cut")[key]), key


@pytest.mark.slow
def test_torchrun_passes_sigterm_on(tmp_path: Path) -> None:
    run = {"output": str(tmp_path), "recipe": {"steps": 400}, "task": {"seconds": 0.1}}
    process = _launch(run)
    _wait_for_step(tmp_path, 3)
    process.terminate()
    out, _ = process.communicate(timeout=300)
    assert out.split() == ["stopped", "stopped"]
    assert f"step-{len(losses(tmp_path)):08}" in os.listdir(tmp_path / "checkpoints")


def test_kill_and_terminate(tmp_path: Path) -> None:
    """Killed at a random step and taken up again: the same bits. Terminated: saved, code 0."""
    settings = {"accumulation": 2, "ema": 0.9, "save_every": 3, "steps": 12, "workers": 1}
    task = {"dropout": 0.3, "noise": True}
    slow = {**task, "seconds": 0.2}
    recipe = toy_recipe(**settings)
    train(recipe, tmp_path / "whole", task=toy_task(**task))

    killed = fork(_run(recipe, tmp_path / "cut", slow))
    _wait_for_step(tmp_path / "cut", 3 + int(time.time() * 1000) % 4)
    os.kill(killed, signal.SIGKILL)
    assert join([killed]) == [-signal.SIGKILL]

    stopped = fork(_run(recipe, tmp_path / "cut", slow))
    _wait_for_step(tmp_path / "cut", 8)
    os.kill(stopped, signal.SIGTERM)
    assert join([stopped]) == [0]
    step = len(losses(tmp_path / "cut"))
    assert 8 <= step < 12
    assert (tmp_path / "cut" / "checkpoints" / f"step-{step:08}").is_dir()
    assert not (tmp_path / "cut" / "model").exists()

    assert train(recipe, tmp_path / "cut", task=toy_task(**task))
    for key, value in _weights(tmp_path / "whole").items():
        assert torch.equal(value, _weights(tmp_path / "cut")[key]), key
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    """Those of a pool wait for their parent otherwise, for ever."""

    def run() -> None:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(1, context, end_with_parent) as pool:
            (tmp_path / "worker").write_text(str(pool.submit(os.getpid).result()))
            (tmp_path / "worker").rename(tmp_path / "started")
            time.sleep(200)

    parent = fork(run)
    _wait_until(lambda: (tmp_path / "started").exists())
    worker = int((tmp_path / "started").read_text())
    os.kill(worker, 0)
    os.kill(parent, signal.SIGKILL)
    assert join([parent]) == [-signal.SIGKILL]
    _wait_until(lambda: not _runs(worker))


def _runs(process: int) -> bool:
    """Whether it is there, and more than an entry that its new parent has not taken yet."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    recipe = toy_recipe(steps=2)
    train(recipe, tmp_path, task=toy_task())
    state = tmp_path / "checkpoints" / "step-00000002" / "run.json"
    values = json.loads(state.read_text())
    state.write_text(json.dumps({**values, "num_processes": 2}))
    with pytest.raises(ValueError, match=r"is of 2 processes, whose places .*; got 1"):
        train(recipe, tmp_path, task=toy_task())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": Optimizer(name="muon")}, "muon needs whole matrices, which FSDP shards"),
        ({"precision": "fp16"}, "precision: fp16 does not go with FSDP"),
    ],
)
def test_what_shards_cannot_be_trained_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], message: str
) -> None:
    def sharded(self: Processes, *, fsdp: bool) -> None:
        original(self, fsdp=fsdp)
        self.sharded = fsdp

    original = Processes.__init__
    monkeypatch.setattr(Processes, "__init__", sharded)
    with pytest.raises(NotImplementedError, match=message):
        train(toy_recipe(fsdp=True, **values), tmp_path, task=toy_task())
