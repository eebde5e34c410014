"""Our own rows, DAM-style rows, and rows with names of columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_rows
from PIL import Image

from fastregion.training.data import (
    BadRow,
    Turn,
)

POLYGON = [3, 2, 11, 2, 11, 12, 3, 12]
MASKS: dict[str, Any] = {
    "path": "m.png",
    "rle": tiny_rows.rle(),
    "run lengths": {"size": [30, 40], "counts": [92, *[10, 20] * 7, 10, 888]},
    "box": [3, 2, 11, 12],
    "polygon": POLYGON,
    "points": [[3, 2], [11, 2], [11, 12], [3, 12]],
    "polygons": [POLYGON, [4, 3, 8, 3, 8, 9]],
    "annotation": {"segmentation": [POLYGON], "id": 7},
    "sam": {"segmentation": tiny_rows.rle(), "predicted_iou": 0.9},
    "bbox": {"bbox": [3, 2, 8, 10]},
    "base64": tiny_rows.encoded(tiny_rows.mask().astype(np.uint8) * 255),
}


@pytest.mark.parametrize("kind", MASKS)
def test_jsonl_masks(tmp_path: Path, kind: str) -> None:
    tiny_rows.write_picture(tmp_path / "a.png")
    tiny_rows.write_mask(tmp_path / "m.png")
    row = {"image": "a.png", "mask": MASKS[kind], "caption": "A cup."}
    tiny_rows.write_lines(tmp_path / "rows.jsonl", [row])
    (record,) = tiny_rows.opened(tmp_path, format="jsonl", path="rows.jsonl")
    tiny_rows.check_record(record, 0)
    assert record.captions == (("A cup.",),)
    assert record.turns == ()


def test_jsonl_rows(tmp_path: Path) -> None:
    tiny_rows.write_picture(tmp_path / "pictures/a.png", 5)
    (tmp_path / "masks").mkdir()
    tiny_rows.write_mask(tmp_path / "masks/m1.png", 1)
    talk = tiny_rows.dialogue("A cup.", "A pen.")
    rows: list[Any] = [
        {"image": "a.png", "mask": "m1.png", "caption": ["A cup.", "One cup."], "id": 4},
        "",
        {
            "image": "a.png",
            "masks": [tiny_rows.rle(2), "m1.png"],
            "captions": [["A", "B"], "C"],
            "category_ids": [1, 92],
            "class_names": ["person", "banner"],
        },
        {"image": "a.png", "masks": [tiny_rows.rle(2)], "conversations": talk, "more": None},
        {"image": "a.png", "conversations": [{"from": "system", "value": "Be short."}, *talk]},
    ]
    tiny_rows.write_lines(tmp_path / "rows.jsonl", rows)
    source = {"format": "jsonl", "path": "rows.jsonl", "images": "pictures", "masks": "masks"}
    records = tiny_rows.opened(tmp_path, **source)
    assert len(records) == 4
    assert records.name(1) == "rows.jsonl, line 3"
    for record, numbers in zip(records, ((1,), (2, 1), (2,), ()), strict=True):
        tiny_rows.check_record(record, *numbers, seed=5)
    first, second, third, fourth = records
    assert (first.id, second.id) == ("4", "row 1")
    assert first.captions == (("A cup.", "One cup."),)
    assert second.captions == (("A", "B"), ("C",))
    assert second.category_ids == (1, 92)
    assert second.class_names == ("person", "banner")
    assert third.turns[1] == Turn(speaker="gpt", text="A cup.")
    assert fourth.turns[0] == Turn(speaker="system", text="Be short.")
    with pytest.raises(IndexError):
        records[4]


def test_json_list_and_columns(tmp_path: Path) -> None:
    tiny_rows.write_picture(tmp_path / "a.png")
    rows = [{"file": "a.png", "where": tiny_rows.rle(), "text": "A cup.", "caption": "no"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    columns = {"image": "file", "mask": "where", "caption": "text"}
    (record,) = tiny_rows.opened(tmp_path, format="jsonl", path="rows.json", columns=columns)
    tiny_rows.check_record(record, 0)
    assert record.captions == (("A cup.",),)
    with pytest.raises(ValueError, match=r"split: .*rows\.json' has none, got 'val'"):
        tiny_rows.opened(tmp_path, format="dam", path="rows.json", split="val")
    columns = {"mask": "here"}
    missing = tiny_rows.opened(tmp_path, format="dam", path="rows.json", columns=columns)
    with pytest.raises(BadRow, match="mask: the row has no column 'here', it has file, where"):
        missing[0]


def test_dam_rows(tmp_path: Path) -> None:
    tiny_rows.write_picture(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "mask_rle": tiny_rows.rle(1), "caption": "A.", "class_name": "cup"},
        {"image": "a.png", "mask_rle": [tiny_rows.rle(1), tiny_rows.rle()], "captions": ["A", "B"]},
    ]
    tiny_rows.write_lines(tmp_path / "rows.jsonl", rows)
    one, two = tiny_rows.opened(tmp_path, format="dam", path="rows.jsonl")
    tiny_rows.check_record(one, 1)
    assert one.class_names == ("cup",)
    tiny_rows.check_record(two, 1, 0)


def test_pictures_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = Image.fromarray(tiny_rows.pixels())
    for suffix in ("png", "jpg", "webp", "tif"):
        turned.save(tmp_path / f"a.{suffix}", exif=exif)
        row = {"image": f"a.{suffix}", "mask": [0, 0, 30, 40], "caption": "A."}
        tiny_rows.write_lines(tmp_path / "rows.jsonl", [row])
        (record,) = tiny_rows.opened(tmp_path, format="jsonl", path="rows.jsonl")
        assert record.size is not None
        assert record.size() == record.image().shape[:2] == (40, 30)
        assert record.regions()[0].area == 1200


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_rows.write_picture(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "mask": [0, 0, 9, 9], "caption": "word " * 100},
        {"image": tiny_rows.encoded(tiny_rows.pixels()), "mask": [0, 0, 9, 9], "caption": "A."},
    ]
    tiny_rows.write_lines(tmp_path / "rows.jsonl", rows)
    records = tiny_rows.opened(tmp_path, format="jsonl", path="rows.jsonl")
    monkeypatch.setattr("fastregion.training.data.rows.MAX_LINE_BYTES", 400)
    with pytest.raises(BadRow, match="the line is longer than"):
        records[0]
    monkeypatch.setattr("fastregion.training.data.rows.MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr("fastregion.training.data.cells.MAX_FILE_BYTES", 400)
    with pytest.raises(BadRow, match="image: is larger than"):
        records[1].image()
    monkeypatch.setattr("fastregion.training.data.rows.MAX_JSON_BYTES", 400)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="the file is larger than"):
        tiny_rows.opened(tmp_path, format="jsonl", path="rows.json")
