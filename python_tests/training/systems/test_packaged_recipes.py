"""The packaged recipes as they are, precision included, on tiny weights; killed and taken up."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny_dam
import tiny_gar
import torch
from PIL import Image
from safetensors.torch import load_file

from fastregion.training import read_recipe, train

pytest.importorskip("accelerate")
pytest.importorskip("yaml")


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastregion.training.loop.draw_loss_curve", lambda *_: None)


def prepare(folder: Path, tiny: ModuleType) -> dict[str, object]:
    """A folder with weights and four rows, and what a recipe needs to know of it."""
    tiny.captioner().save_pretrained(folder / "base")
    rows = []
    for k in range(4):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        rows.append({"image": f"{k}.png", "mask": [5, 5, 30, 25 + k], "caption": f"thing {k}"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"format": "jsonl", "path": str(folder / "rows.jsonl")}
    return {"start_from": str(folder / "base"), "data": [data], "workers": 0, "tensorboard": False}


@pytest.mark.parametrize(("system", "tiny"), [("gar", tiny_gar), ("dam", tiny_dam)])
def test_the_recipe_as_it_is(system: str, tiny: ModuleType, tmp_path: Path) -> None:
    known = {**prepare(tmp_path, tiny), "epochs": None, "steps": 2, "accumulation": 1}
    recipe = read_recipe(system, known)
    assert recipe.precision == "bf16"
    assert train(recipe, tmp_path / "run")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(row)["loss"]) for row in rows)
    before = load_file(tmp_path / "base" / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.slow
def test_killed_anywhere_the_command_ends_with_the_same_bits(tmp_path: Path) -> None:
    """The command itself, GAR with LoRA: kill -9 twice, then to the end."""
    known = {
        **prepare(tmp_path, tiny_gar),
        **{"epochs": None, "steps": 12, "accumulation": 2, "save_every": 2},
        "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1},
    }
    words = [f"{key}={json.dumps(value)}" for key, value in known.items()]
    command = [sys.executable, "-m", "fastregion", "train", "gar", *words, "--output"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment)
    cut = tmp_path / "cut"
    for least in (3, 7):
        process = subprocess.Popen([*command, str(cut)], env=environment)
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            file = cut / "metrics.jsonl"
            if file.exists() and file.read_bytes().count(b"\n") >= least:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, str(cut)], check=True, env=environment)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        expected = load_file(tmp_path / "whole" / "model" / name)
        found = load_file(cut / "model" / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[key]) for key, value in expected.items())
