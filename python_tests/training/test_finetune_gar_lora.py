"""The example that fine-tunes a GAR or DAM checkpoint, on tiny weights."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny_dam
import tiny_gar
import torch
from PIL import Image
from safetensors.torch import load_file

from fastregion import load

pytest.importorskip("peft")
pytest.importorskip("yaml")

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune_gar_lora.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("finetune_gar_lora", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    rows = []
    for k in range(4):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        mask = np.zeros((40, 60), np.uint8)
        mask[5 : 20 + k, 10:40] = 255
        Image.fromarray(mask).save(folder / f"{k}_mask.png")
        rows.append({"image": f"{k}.png", "mask": f"{k}_mask.png", "caption": f"thing {k}"})
    rows[-1] = {"image": "0.png", "masks": [[1, 1, 20, 20]] * 2, "captions": ["a box", "a cup"]}
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("system", ["gar", "dam"])
def test_example(
    example: ModuleType, system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path / "rows")
    base = tmp_path / "base"
    {"gar": tiny_gar, "dam": tiny_dam}[system].captioner().save_pretrained(base)
    settings = {
        "steps": 4,
        "batch_tokens": 1200,
        "accumulation": 2,
        "workers": 0,
        "optimizer.learning_rate": 2e-2,
        "lora.dropout": 0.0,
    }
    model = example.finetune(folder, str(base), tmp_path / "run", system, **settings)
    example.show(model, folder)
    assert capsys.readouterr().out.count("the row says") == 3

    before, after = (load_file(place / "model.safetensors") for place in (base, model))
    assert before.keys() == after.keys()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert any("q_proj" in name and "layers.0" in name for name in moved)
    still = re.compile(r"embed_tokens|lm_head|layernorm|pos_embed|position_embedding|projector")
    assert not [name for name in moved if still.search(name)]
    assert any("mask_patch_embedding" in name for name in moved)
    adapter = load_file(model / "adapter" / "adapter_model.safetensors")
    assert sum(value.numel() for value in adapter.values()) < sum(v.numel() for v in after.values())
    assert load(model).model_type == load(base).model_type
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[-1]["step"] == 4
    assert rows[-1]["loss"] < rows[0]["loss"]
