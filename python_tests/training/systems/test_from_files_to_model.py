"""URECA and Pix2Cap from published files, through the loop, to a model that loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pix2cap
import tiny_ureca
import torch
from PIL import Image
from safetensors.torch import load_file

from fastregion.models import load
from fastregion.models.categories import Category
from fastregion.models.coco_panoptic import PanopticImage, write_panoptic
from fastregion.models.segment import Segment
from fastregion.models.ureca import UrecaCaptioner
from fastregion.regions import Region
from fastregion.training import read_recipe, train
from fastregion.training.systems import build_task
from fastregion.training.systems.pix2cap import Pix2CapTask

SIZE = (50, 70)


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastregion.training.loop.draw_loss_curve", lambda *_: None)


def write_pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in names:
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in metrics(run)]


def write_ureca_rows(folder: Path) -> Path:
    """Two rows about regions of one SA-1B picture, augmented; gives the settings."""
    write_pictures(folder / "images", ["sa_1.jpg"])
    regions = (Region.from_box((40, 30, 70, 50), SIZE), Region.from_box((2, 3, 20, 30), SIZE))
    annotations = [
        {"id": number, "segmentation": region.rle, "area": int(region.area)}
        for number, region in enumerate(regions, start=7)
    ]
    (folder / "masks").mkdir()
    (folder / "masks" / "sa_1.json").write_text(json.dumps({"annotations": annotations}))
    rows = [
        {
            "id": number,
            "image": "sa_1",
            "mask_id": str(number),
            "conversations": [
                {"from": "human", "value": "<image>\nDescribe this region in the image."},
                {"from": "gpt", "value": text},
            ],
        }
        for number, text in ((7, "A thing!"), (8, "Another."))
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "root": "images",
        "mask": "masks",
        "annotation": "train.jsonl",
        "data_augment": True,
        "repeat_time": 1,
        "max_dynamic_patch": 4,
    }
    (folder / "meta.json").write_text(json.dumps({"train": settings}))
    return folder / "meta.json"


SHORT: dict[str, Any] = {
    "epochs": None,
    "batch_size": 2,
    "precision": "fp32",
    "workers": 0,
    "save_every": None,
    "tensorboard": False,
    "schedule.name": "constant",
    "schedule.warmup_ratio": 0.0,
    "optimizer.learning_rate": 1e-2,
}


@pytest.mark.parametrize("internlm2", [False, True])
def test_both_stages_of_ureca(tmp_path: Path, internlm2: bool) -> None:
    """From an InternVL2.5 folder to a captioner with a mask encoder and merged updates."""
    base = tmp_path / "base"
    tiny_ureca.write_base_model(base, internlm2=internlm2)
    source = {"format": "ureca", "path": str(write_ureca_rows(tmp_path))}
    common = {**SHORT, "data": [source], "steps": 3}
    first = read_recipe(
        "ureca_stage1", {**common, "start_from": str(base), "options.num_mask_token": 4}
    )
    assert train(first, tmp_path / "one")
    found = losses(tmp_path / "one")
    assert len(found) == 3
    assert found[-1] < found[0]
    start, one = load_file(base / "model.safetensors"), tmp_path / "one" / "model"
    after = load_file(one / "model.safetensors")
    assert {key for key in after if key.startswith("mask_")} == after.keys() - start.keys()
    for key, value in start.items():  # tables have grown by the new tokens
        assert torch.equal(after[key][: len(value)], value), key
    untrained = build_task(first).captioner.model.state_dict()
    assert not torch.equal(after["mask_linear.weight"], untrained["mask_tokens.mask_linear.weight"])

    lora = {"lora.rank": 4, "lora.alpha": 8}
    second = read_recipe("ureca_stage2", {**common, **lora, "start_from": str(one)})
    assert train(second, tmp_path / "two")
    found = losses(tmp_path / "two")
    assert found[-1] < found[0]
    two = load_file(tmp_path / "two" / "model" / "model.safetensors")
    assert any(".lora_A.default." in key for key in two)
    for key, value in two.items():
        if ".lora_" not in key:
            plain = key.replace("base_model.model.", "", 1).replace(".base_layer.", ".")
            assert torch.equal(value, after[plain]), key
    captioner = load(tmp_path / "two" / "model")
    assert isinstance(captioner, UrecaCaptioner)
    assert captioner.config.max_dynamic_patch == 6
    captioner.max_num = 4
    image = np.asarray(Image.open(tmp_path / "images" / "sa_1.jpg"))
    text = captioner.describe(image, Region.from_box((2, 3, 20, 30), SIZE), max_new_tokens=4)
    assert isinstance(text, str)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_two_processes_have_the_losses_of_one(tmp_path: Path, fsdp: bool) -> None:
    """DDP and FSDP, by the command line: a row of each micro-batch to a process."""
    tiny_ureca.captioner().save_pretrained(tmp_path / "start")
    write_ureca_rows(tmp_path)
    values = {
        **SHORT,
        "start_from": str(tmp_path / "start"),
        "data": [{"format": "ureca", "path": str(tmp_path / "meta.json")}],
        "steps": 4,
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
        "group_by_length": False,
    }
    assert train(read_recipe("ureca_stage2", values), tmp_path / "one")
    several = {**values, "batch_size": 1, "fsdp": fsdp}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    given = [f"{key}={json.dumps(value)}" for key, value in several.items()]
    subprocess.run(
        [*torchrun, "-m", "fastregion", "train", "ureca_stage2", *given, "--output", "two"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("ureca_stage2", {}, "start_from: expected a folder of URECA or of InternVL2.5, got none"),
        ("ureca_stage2", {"lora": None}, "lora: stage 2 trains low-rank updates; expected"),
        ("ureca_stage1", {"lora": {"rank": 4}}, "lora: stage 1 trains the mask encoder alone"),
        ("ureca_stage2", {"lora.alpha": 128}, "lora.alpha: .* 2 times the rank of 128, got 128"),
        ("ureca_stage1", {"options.stage": 3}, "options.stage: expected one of 1, 2, got 3"),
        ("ureca_stage1", {"options.max_tile": 3}, "unknown key; the nearest .*options.max_tiles"),
    ],
)
def test_recipes_of_ureca_that_do_not_fit(name: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_task(read_recipe(name, change))


def test_stage_2_needs_a_mask_encoder(tmp_path: Path) -> None:
    tiny_ureca.write_base_model(tmp_path)
    with pytest.raises(ValueError, match="start_from: stage 2 needs a mask encoder that stage 1"):
        build_task(read_recipe("ureca_stage2", {"start_from": str(tmp_path)}))


def test_more_than_updates_may_be_trained_in_stage_2(tmp_path: Path) -> None:
    tiny_ureca.captioner().save_pretrained(tmp_path)
    lora = {"lora.rank": 2, "lora.alpha": 4, "lora.also_train": ["mask_linear.*"]}
    task = build_task(read_recipe("ureca_stage2", {"start_from": str(tmp_path), **lora}))
    trained = {name for name, p in task.parameters().items() if p.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == {
        "mask_linear.weight",
        "mask_linear.bias",
    }


def test_numbers_of_the_two_stages() -> None:
    one, two = read_recipe("ureca_stage1"), read_recipe("ureca_stage2")
    assert (one.optimizer.learning_rate, two.optimizer.learning_rate) == (2e-4, 4e-5)
    assert two.lora is not None
    assert (two.lora.rank, two.lora.alpha, two.lora.dropout) == (128, 256, 0.05)
    for recipe in (one, two):
        assert recipe.optimizer.weight_decay == 0.01
        assert recipe.optimizer.betas == (0.9, 0.999)
        assert (recipe.schedule.name, recipe.schedule.warmup_ratio) == ("cosine", 0.03)
        assert (recipe.precision, recipe.clip, recipe.seed) == ("bf16", 1.0, 42)
        assert recipe.group_by_length
        assert recipe.gradient_checkpointing
        assert recipe.options["max_tiles"] == 6


def write_pix2cap_rows(folder: Path) -> dict[str, str]:
    """Three pictures, of which one has too short a description; gives the source."""
    write_pictures(folder / "pictures", ["1.jpg", "2.jpg", "3.jpg"])
    categories = [Category(1, "person", isthing=True), Category(2, "bicycle", isthing=True)]
    left = np.zeros(SIZE, bool)
    left[:, :40] = True
    images = [
        PanopticImage(
            number,
            f"{number}.jpg",
            SIZE,
            tuple(
                Segment.of(Region.from_mask(mask), id=id_, category=category, caption=text)
                for id_, (mask, category, text) in enumerate(
                    zip((left, ~left), categories, texts, strict=True), start=1
                )
            ),
        )
        for number, texts in ((1, ("the red dog", "a cat")), (2, ("a dog", "a")), (3, ("sky",) * 2))
    ]
    write_panoptic(folder / "panoptic.json", images)
    text = (folder / "panoptic.json").read_text().replace('"caption"', '"description"')
    (folder / "panoptic.json").write_text(text)
    path, pictures = str(folder / "panoptic.json"), str(folder / "pictures")
    return {"format": "pix2cap", "path": path, "images": pictures}


def test_pix2cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_pix2cap.captioner()
    made.save_pretrained(tmp_path / "start")
    recipe = read_recipe(
        "pix2cap",
        {
            **SHORT,
            "start_from": str(tmp_path / "start"),
            "data": [write_pix2cap_rows(tmp_path)],
            "steps": 3,
            "optimizer.learning_rate": 3e-3,
            "options.image_size": 64,
        },
    )
    assert train(recipe, tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert len(rows) == 3
    assert {"loss/loss_mask_ce_0", "loss/loss_densecaption_3"} <= rows[0].keys()
    before = load_file(tmp_path / "start" / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    trained = {name for name, p in build_task(recipe).parameters().items() if p.requires_grad}
    assert moved == trained
    assert load(tmp_path / "run" / "model").config == made.config

    # Killed and taken up again, with other views, points, sentences and dropout in every step.
    def die(self: Pix2CapTask, progress: float) -> None:
        if progress > 0.5:
            raise KeyboardInterrupt

    saving = replace(recipe, save_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(Pix2CapTask, "set_progress", die)
        with pytest.raises(KeyboardInterrupt):
            train(saving, tmp_path / "again")
    assert len(metrics(tmp_path / "again")) == 2
    assert train(saving, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model" / "model.safetensors")
    assert all(torch.equal(again[key], value) for key, value in after.items())
