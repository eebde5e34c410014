"""Every kind of bad row is found before training starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_rows
from PIL import Image

from fastregion.training.data import DataSource, Records, check_records, open_sources
from fastregion.training.data.record import FAULTS

GOOD = {"image": "a.png", "mask": [0, 0, 9, 9], "caption": "A cup."}
BAD: dict[str, list[tuple[Any, str]]] = {
    "malformed row": [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
        ("[" * 100_000, "nested too deeply"),
        ({"mask": [0, 0, 9, 9], "caption": "A."}, "image: is missing, the row has mask, caption"),
        ({**GOOD, "image": 3}, "image: expected a path or a picture, got int 3"),
        ({**GOOD, "caption": 3}, "caption: expected text, got int 3"),
        ({**GOOD, "image": "A" * 9999}, r"image: expected a path .*, got str 'AAA.*\.\.\.$"),
        ({**GOOD, "mask": ""}, "mask: expected a path or a picture, got str ''"),
        ({**GOOD, "id": [1]}, "id: expected a number or text, got list"),
        ({**GOOD, "captions": ["A."]}, "captions: expected either caption or captions"),
        ({**GOOD, "conversations": tiny_rows.dialogue("A")}, "expected either these or captions"),
        ({"image": "a.png", "caption": "A."}, "mask: is missing, there is none for caption to be"),
        ({**GOOD, "category_id": "cat"}, "category_id: expected integers"),
        (
            {"image": "a.png", "mask": [0, 0, 9, 9], "conversations": [{"from": "me", "value": 1}]},
            "from must be 'human', 'gpt' or 'system', got str 'me'",
        ),
        (
            {"image": "a.png", "masks": [[0, 0, 9, 9]] * 2, "captions": ["A."]},
            "captions: expected one for each of 2 masks, got 1",
        ),
    ],
    "missing file": [
        ({**GOOD, "image": "gone.png"}, "no such file"),
        ({**GOOD, "mask": "gone.png"}, "no such file"),
        ({**GOOD, "image": "x" * 3000}, "File name too long|no such file"),
        ({**GOOD, "mask": "x" * 3000}, "File name too long|no such file"),
    ],
    "unreadable picture": [
        ({**GOOD, "image": "torn.png"}, "is not a picture of a known format"),
        ({**GOOD, "image": "empty.png"}, "is empty"),
        ({**GOOD, "image": "data:base64,AAAA"}, "is not a picture of a known format"),
    ],
    "malformed mask": [
        ({**GOOD, "mask": {"size": [30, 40], "counts": "#"}}, "rle"),
        ({**GOOD, "mask": {"size": [30, 40], "counts": [5, 5]}}, "rle"),
        ({**GOOD, "mask": {"size": [10**9, 10**9], "counts": "04"}}, "rle"),
        ({**GOOD, "mask": [0, 0, 99, 99]}, "box: must lie inside the image"),
        ({**GOOD, "mask": [5, 5, 1, 1]}, "box: must have x0 < x1"),
        ({**GOOD, "mask": [1, 2, 3, 4, 5]}, "polygon"),
        ({**GOOD, "mask": "torn.png"}, "is not a picture of a known format"),
        ({**GOOD, "mask": 7}, "mask: expected a path, an RLE, a box or a polygon, got int 7"),
        (
            {"image": "a.png", "masks": [[0, 0, 9, 9], {"counts": 1}], "captions": ["A", "B"]},
            r"masks\[1\]: rle: must have the keys",
        ),
    ],
    "size mismatch": [
        ({**GOOD, "mask": {"size": [40, 30], "counts": [0, 1200]}}, r"\(30, 40\) to match the"),
        ({**GOOD, "mask": "other.png"}, r"expected shape \(30, 40\) to match .*, got \(8, 9\)"),
    ],
    "empty mask": [
        ({**GOOD, "mask": {"size": [30, 40], "counts": [1200]}}, "mask: is empty"),
        ({**GOOD, "mask": [50, 50, 60, 50, 60, 60]}, "mask: is empty"),
    ],
    "no text": [
        ({**GOOD, "caption": " \n"}, "caption: has no text"),
        ({**GOOD, "caption": []}, "caption: has no text"),
        ({"image": "a.png", "mask": [0, 0, 9, 9]}, "caption: is missing"),
        (
            {
                "image": "a.png",
                "mask": [0, 0, 9, 9],
                "conversations": [{"from": "human", "value": "?"}],
            },
            "nothing is answered",
        ),
        (
            {"image": "a.png", "mask": [0, 0, 9, 9], "conversations": tiny_rows.dialogue("")},
            r"conversations\[1\]: has no text",
        ),
    ],
    "duplicate id": [({**GOOD, "id": "x"}, "id: 'x' is also that of rows.jsonl, line 1")],
    "too many regions": [
        (
            {"image": "a.png", "masks": [[0, 0, 9, 9]] * 5, "captions": ["A."] * 5},
            "masks: expected at most 4, got 5",
        )
    ],
}


def written(folder: Path, rows: list[Any]) -> Records:
    tiny_rows.write_picture(folder / "a.png")
    Image.fromarray(np.ones((8, 9), np.uint8)).save(folder / "other.png")
    (folder / "torn.png").write_bytes(b"\x89PNG torn")
    (folder / "empty.png").touch()
    tiny_rows.write_lines(folder / "rows.jsonl", rows)
    return open_sources([DataSource(format="jsonl", path="rows.jsonl")], folder)


def test_all_kinds_are_tried() -> None:
    assert set(BAD) == set(FAULTS)


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows(tmp_path: Path, kind: str) -> None:
    first = {**GOOD, "id": "x"}
    records = written(tmp_path, [first, *(row for row, _ in BAD[kind]), GOOD])
    report = check_records(records, max_regions=4, progress=False)
    assert report.counts == {kind: len(BAD[kind])}, report.summary()
    assert [found.row for found in report.bad] == list(range(1, len(BAD[kind]) + 1))
    for found, (_, message) in zip(report.bad, BAD[kind], strict=True):
        assert found.name == f"rows.jsonl, line {found.row + 1}"
        with pytest.raises(ValueError, match=message):
            raise ValueError(found.message)
    usable = report.usable(records)
    assert [usable.name(k) for k in range(len(usable))] == [
        "rows.jsonl, line 1",
        f"rows.jsonl, line {len(records)}",
    ]
    assert usable[0].id == "x"
    assert usable.repeats.tolist() == [1, 1]


@pytest.fixture
def mixed(tmp_path: Path) -> Records:
    rows = [{**GOOD, "id": k} for k in range(150)]
    rows[3]["caption"] = ""
    rows[70]["image"] = "gone.png"
    rows[140]["id"] = 12
    return written(tmp_path, rows)


def test_workers_see_the_same(mixed: Records) -> None:
    alone = check_records(mixed, progress=False)
    assert alone.counts == {"missing file": 1, "no text": 1, "duplicate id": 1}
    assert list(alone.counts) == ["missing file", "no text", "duplicate id"]
    assert check_records(mixed, workers=2, progress=False) == alone


def test_what_is_said_and_when_it_stops(mixed: Records) -> None:
    report = check_records(mixed, progress=True)
    assert report.summary(2) == (
        "150 rows, 3 of them bad (missing file: 1, no text: 1, duplicate id: 1)\n"
        "  rows.jsonl, line 4: caption: has no text\n"
        f"  rows.jsonl, line 71: {report.bad[1].message}\n"
        "  and 1 more"
    )
    report.require(0.02)
    with pytest.raises(ValueError, match=r"too many bad rows, at most 1\.0% may be: 150 rows, 3"):
        report.require()
    with pytest.raises(ValueError, match=r"max_bad_share: must lie in 0\.\.1, got 3"):
        report.require(3)
    with pytest.raises(ValueError, match="max_regions: must be at least 1"):
        check_records(mixed, max_regions=0)
    with pytest.raises(ValueError, match="workers: must be at least 0"):
        check_records(mixed, workers=-1)


def test_no_good_row_is_an_error(tmp_path: Path) -> None:
    report = check_records(written(tmp_path, ["{"]), progress=False)
    with pytest.raises(ValueError, match="1 rows, 1 of them bad"):
        report.require(1.0)
    good = check_records(written(tmp_path, [GOOD]), progress=False)
    good.require(0.0)
    assert good.summary() == "1 rows, all of them good"
    with pytest.raises(ValueError, match="data: has no rows"):
        check_records(written(tmp_path, ["", ""]))


def test_the_result_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [GOOD, {**GOOD, "caption": ""}]
    records, cache = written(tmp_path, rows), tmp_path / "checked.json"
    with pytest.raises(NotADirectoryError, match="cache: no such folder"):
        check_records(records, cache=tmp_path / "nowhere" / "checked.json")
    report = check_records(records, cache=cache, progress=False)
    assert [path.name for path in tmp_path.glob("*checked*")] == ["checked.json"]
    looked = []
    original = type(records).__getitem__
    monkeypatch.setattr(
        type(records), "__getitem__", lambda self, row: looked.append(row) or original(self, row)
    )
    assert check_records(written(tmp_path, rows), cache=cache, progress=False) == report
    assert looked == [0, 1]  # the file was written again
    looked.clear()
    again = open_sources([DataSource(format="jsonl", path="rows.jsonl")], tmp_path)
    assert check_records(again, cache=cache, progress=False) == report
    assert looked == []
    check_records(again, cache=cache, max_regions=3, progress=False)
    assert looked == [0, 1]
    cache.write_text(json.dumps({"key": 1}))
    assert check_records(again, cache=cache, progress=False) == report
    tiny_rows.write_lines(tmp_path / "rows.jsonl", [GOOD, GOOD, GOOD])
    changed = open_sources([DataSource(format="jsonl", path="rows.jsonl")], tmp_path)
    assert check_records(changed, cache=cache, progress=False).bad == ()
