"""The example that fine-tunes mini, on ten regions for a few steps."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import fastregion as fr
from fastregion.scenes import generate_scene

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune_mini.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("finetune_mini", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = []
    for seed in range(10):
        scene = generate_scene(seed)
        Image.fromarray(scene.image).save(folder / f"{seed}.png")
        region = scene.regions[0]
        Image.fromarray(region.mask).save(folder / f"{seed}_mask.png")
        caption = f"My favourite {region.facts.color} sticker."
        rows.append({"image": f"{seed}.png", "mask": f"{seed}_mask.png", "caption": caption})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_held_out_captions_become_likelier(
    example: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    before, after = example.finetune(folder, output, steps=6)
    assert after > before + 1.0
    assert "right is 'My favourite" in capsys.readouterr().out
    held_out = (output / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    training = (output / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["image"] for row in held_out] == ["4.png", "9.png"]
    assert len(training) == 8
    region = fr.Region.from_mask(generate_scene(0).regions[0].mask)
    assert fr.load(str(output / "model")).describe(folder / "0.png", region)


def test_too_few_rows_end_with_a_sentence(example: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"rows\.jsonl: expected at least 5 rows, got 1"):
        example.finetune(tmp_path, tmp_path / "run", steps=1)
