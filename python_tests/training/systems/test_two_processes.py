"""DDP and FSDP on CPUs give the losses of one process, for the systems with a decoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny_dam
import tiny_gar
import tiny_rows
import tiny_ureca
import torch
from forks import fork_group, join, one_thread
from safetensors.torch import load_file
from toy_training import losses

from fastregion.training import read_recipe, train

pytest.importorskip("accelerate")
pytest.importorskip("peft")

ROWS, STEPS = 16, 20
LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.0}
MASK_PATH = ["*mask_patch_embedding.*"]
COMMON: dict[str, Any] = {
    "epochs": None,
    "steps": STEPS,
    "accumulation": 2,
    "group_by_length": False,
    "optimizer.learning_rate": 1e-3,
    "precision": "fp32",
    "workers": 0,
    "save_every": None,
    "tensorboard": False,
}


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastregion.training.loop.draw_loss_curve", lambda *_: None)


def prepare(folder: Path, tiny: ModuleType) -> dict[str, Any]:
    """Weights, rows with a region or two and captions of 1 to 12 words; keys of a recipe."""
    rng = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for number in range(ROWS):
        tiny_rows.write_picture(folder / f"{number}.png", number)
        boxes = [[1, 2, 9 + number, 25], [20, 4, 38, 20]][: 1 + number % 2]
        captions = [" ".join(["cup"] * int(rng.integers(1, 13))) for _ in boxes]
        rows.append({"image": f"{number}.png", "masks": boxes, "captions": captions})
    tiny_rows.write_lines(folder / "rows.jsonl", rows)
    tiny.captioner().save_pretrained(folder / "base")
    source = {"format": "jsonl", "path": str(folder / "rows.jsonl")}
    return {**COMMON, "start_from": str(folder / "base"), "data": [source]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "tiny", "more"),
    [
        ("gar", tiny_gar, {}),
        ("gar", tiny_gar, {"lora": {**LORA, "also_train": MASK_PATH}}),
        ("dam", tiny_dam, {}),
        ("dam", tiny_dam, {"lora": {**LORA, "also_train": MASK_PATH}}),
        # Its tiny mask encoder is chaotic at the rate of the others: rounding grows in one process.
        ("ureca_stage1", tiny_ureca, {"optimizer.learning_rate": 2e-5}),
        ("ureca_stage2", tiny_ureca, {"lora": LORA}),
    ],
)
def test_losses_of_one_process(
    recipe: str, tiny: ModuleType, more: dict[str, Any], tmp_path: Path
) -> None:
    values = {**prepare(tmp_path, tiny), **more}
    with one_thread():
        assert train(read_recipe(recipe, {**values, "batch_size": 4}), tmp_path / "one")
        for fsdp in (False, True):
            folder = tmp_path / f"two-{fsdp}"
            several = read_recipe(recipe, {**values, "batch_size": 2, "fsdp": fsdp})
            assert join(fork_group(partial(train, several, folder)), patience=900) == [0, 0]
            assert len(losses(folder)) == STEPS
            assert losses(folder) == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
            ours = load_file(folder / "model" / "model.safetensors")
            for name, value in load_file(tmp_path / "one" / "model" / "model.safetensors").items():
                torch.testing.assert_close(ours[name], value, atol=1e-4, rtol=0, msg=name)
