"""URECA's settings, rows and masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_rows
from PIL import Image

from fastregion.training.data import (
    BadRow,
)


def ureca_row(number: int, image: str = "sa_1", mask_id: Any = "7") -> dict[str, Any]:
    talk = [
        {"from": "human", "value": "<image>\n<mask>\nDescribe this region."},
        {"from": "gpt", "value": f"A cup {number}."},
    ]
    return {"id": number, "image": image, "mask_id": mask_id, "conversations": talk}


@pytest.fixture
def ureca(tmp_path: Path) -> Path:
    Image.fromarray(tiny_rows.pixels()).save(tmp_path / "sa.png")
    (tmp_path / "images").mkdir()
    for name in ("sa_1.jpg", "sa_2"):  # with the suffix left out in the rows, and with none
        (tmp_path / "images" / name).write_bytes((tmp_path / "sa.png").read_bytes())
    (tmp_path / "masks").mkdir()
    for name in ("sa_1", "sa_2"):
        found = [
            {"id": 7, "segmentation": tiny_rows.rle(1), "area": 80},
            {"id": 8, "segmentation": tiny_rows.rle(2)},
            {"id": 9, "segmentation": tiny_rows.rle(3)},
            {"id": 9, "segmentation": tiny_rows.rle(3)},
        ]
        (tmp_path / f"masks/{name}.json").write_text(json.dumps({"annotations": found}))
    rows = [ureca_row(0), ureca_row(1, "sa_2", 8), ureca_row(2, mask_id="9"), ureca_row(3, "sa_3")]
    tiny_rows.write_lines(tmp_path / "rows.jsonl", rows)
    entry = {"root": "images", "mask": "masks", "annotation": "rows.jsonl"}
    meta = {
        "main": {**entry, "data_augment": True, "repeat_time": 2, "max_dynamic_patch": 4},
        "part": {**entry, "repeat_time": 0.5},
        "test_set": entry,
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    return tmp_path


def test_ureca_rows(ureca: Path) -> None:
    records = tiny_rows.opened(ureca, format="ureca", path="meta.json")
    assert len(records) == 4 + 2
    assert records.repeats.tolist() == [2, 2, 2, 2, 1, 1]
    first, second = records[0], records[1]
    tiny_rows.check_record(first, 1)
    tiny_rows.check_record(second, 2)
    assert (first.id, records[4].id) == ("main/0", "part/0")
    assert first.turns[0].text.startswith("<image>\n<mask>\n")
    assert (first.jpeg_augmentation, first.max_tiles) == (True, 4)
    assert (records[5].jpeg_augmentation, records[5].max_tiles) == (False, None)
    assert records.name(5) == "part: rows.jsonl, line 2"
    with pytest.raises(BadRow, match="expected one annotation with the id 9, got 2"):
        records[2].regions()
    with pytest.raises(BadRow, match=r"no such file: .*sa_3\.jpg'") as caught:
        records[3].image()
    assert caught.value.kind == "missing file"
    assert len(tiny_rows.opened(ureca, format="ureca", path="meta.json", split="test")) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeat_time": 1.5}, "repeat_time must be an integer, or a number between 0 and 1"),
        ({"repeat_time": 0}, "repeat_time must be"),
        ({"root": 3}, "main: root must be a path, got 3"),
        ({"mask": "nowhere"}, "main: mask: no such folder"),
        ({"annotation": "nowhere"}, "no such file"),
        ({"data_augment": "yes"}, "data_augment must be true or false, got 'yes'"),
        ({"max_dynamic_patch": 0}, "max_dynamic_patch must be a positive integer, got 0"),
    ],
)
def test_ureca_settings(ureca: Path, change: dict[str, Any], message: str) -> None:
    meta = json.loads((ureca / "meta.json").read_text())
    meta["main"].update(change)
    (ureca / "meta.json").write_text(json.dumps(meta))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        tiny_rows.opened(ureca, format="ureca", path="meta.json")


def test_ureca_refuses(ureca: Path) -> None:
    with pytest.raises(ValueError, match="split: expected 'train' or 'test', got 'val'"):
        tiny_rows.opened(ureca, format="ureca", path="meta.json", split="val")
    (ureca / "meta.json").write_text("{}")
    with pytest.raises(ValueError, match="has no data set for the split 'train'"):
        tiny_rows.opened(ureca, format="ureca", path="meta.json")
    bad = [{**ureca_row(0), key: value} for key, value in (("id", "a"), ("image", 1))]
    bad += [ureca_row(0, mask_id="x"), {**ureca_row(1), "conversations": []}]
    tiny_rows.write_lines(ureca / "rows.jsonl", bad)
    entry = {"root": "images", "mask": "masks", "annotation": "rows.jsonl"}
    (ureca / "meta.json").write_text(json.dumps({"main": entry}))
    records = tiny_rows.opened(ureca, format="ureca", path="meta.json")
    for row, message in enumerate(("id: is missing or", "image: is", "mask_id: exp", "convers")):
        with pytest.raises(BadRow, match=message):
            records[row]
