"""GAR's rows, from lists and from folders of HF datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_rows
from PIL import Image

from fastregion.training.data import (
    BadRow,
    Records,
)

GAR_ROWS = [
    {
        "image": tiny_rows.encoded(tiny_rows.pixels(1)),
        "conversations": tiny_rows.dialogue("A cup.", "A pen."),
        "mask_rle": [tiny_rows.rle(1), tiny_rows.rle(3)],
    },
    {"image": "a.png", "conversations": tiny_rows.dialogue("A"), "mask_rle": tiny_rows.rle(2)},
    {"image": "a.png", "conversations": tiny_rows.dialogue("A"), "mask_rle": None},
]


def check_gar(records: Records) -> None:
    first, second, third = records
    tiny_rows.check_record(first, 1, 3, seed=1)
    assert [turn.text for turn in first.turns] == ["What is it?", "A cup."] * 1 + [
        "What is it?",
        "A pen.",
    ]
    assert first.captions == ()
    tiny_rows.check_record(second, 2)
    tiny_rows.check_record(third)


def test_gar_list(tmp_path: Path) -> None:
    tiny_rows.write_picture(tmp_path / "a.png")
    (tmp_path / "rows.json").write_text(json.dumps(GAR_ROWS))
    check_gar(tiny_rows.opened(tmp_path, format="gar", path="rows.json"))


def test_gar_arrow_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    tiny_rows.write_picture(tmp_path / "a.png")
    rows = [{**row, "mask_rle": row["mask_rle"]} for row in GAR_ROWS]
    rows[1]["mask_rle"] = [rows[1]["mask_rle"]]  # one type in a column
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    check_gar(tiny_rows.opened(tmp_path, format="gar", path="saved", images="."))


def test_gar_decoded_pictures(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            "image": Image.fromarray(tiny_rows.pixels(seed)),
            "conversations": tiny_rows.dialogue("A cup."),
            "mask_rle": tiny_rows.rle(seed),
        }
        for seed in (0, 1)
    ]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "conversations": datasets.List(
                {"from": datasets.Value("string"), "value": datasets.Value("string")}
            ),
            "mask_rle": {
                "size": datasets.List(datasets.Value("int64")),
                "counts": datasets.Value("binary"),
            },
        }
    )
    for row in rows:
        row["mask_rle"] = {**row["mask_rle"], "counts": row["mask_rle"]["counts"].encode()}
    data = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": data, "val": data.select([1])}).save_to_disk(tmp_path / "both")
    records = tiny_rows.opened(tmp_path, format="gar", path="both")
    assert len(records) == 2
    for seed, record in enumerate(records):
        tiny_rows.check_record(record, seed, seed=seed)
    (only,) = tiny_rows.opened(tmp_path, format="gar", path="both", split="val")
    tiny_rows.check_record(only, 1, seed=1)
    with pytest.raises(ValueError, match="has the splits train, val, got split 'test'"):
        tiny_rows.opened(tmp_path, format="gar", path="both", split="test")


def test_gar_refuses(tmp_path: Path) -> None:
    Image.new("RGB", (9, 40)).save(tmp_path / "narrow.png")
    talk = tiny_rows.dialogue("A")
    rows: list[Any] = [
        {"image": "narrow.png", "conversations": talk},
        {"image": "narrow.png"},
        {"image": "narrow.png", "conversations": talk, "mask_rle": [3]},
        {"image": "data:base64,!!", "conversations": talk},
        5,
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    records = tiny_rows.opened(tmp_path, format="gar", path="rows.json")
    with pytest.raises(BadRow, match=r"must be at least 10 pixels wide and high, got \(40, 9\)"):
        records[0].image()
    with pytest.raises(BadRow, match="conversations: is missing"):
        records[1]
    with pytest.raises(BadRow, match="mask_rle: expected COCO RLEs, got int"):
        records[2]
    with pytest.raises(BadRow, match="is not base64") as caught:
        records[3].image()
    assert caught.value.kind == "unreadable picture"
    with pytest.raises(BadRow, match="expected a JSON object, got int"):
        records[4]
