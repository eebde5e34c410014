from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_data import write_json

from fastregion.evaluation.benchmarks.rows import (
    Row,
    find_file,
    picture_name,
    read_object,
    read_rows,
)


def row(**values: Any) -> Row:
    return Row(values, "data: 'f.json': row 3")


@pytest.mark.parametrize(
    ("read", "values", "message"),
    [
        (lambda r: r.text("a"), {}, "a: is missing; there are []"),
        (lambda r: r.text("a"), {"a": 5}, "a: expected text, got 5"),
        (lambda r: r.integer("a"), {"a": True}, "a: expected an integer, got true"),
        (lambda r: r.integer("a", 1), {"a": 0}, "a: expected an integer of at least 1, got 0"),
        (lambda r: r.name("a"), {"a": 1.5}, "a: expected an integer or a text, got 1.5"),
        (lambda r: r.texts("a"), {"a": ["x", 2]}, "a[1]: expected text, got 2"),
        (lambda r: r.texts("a", 3), {"a": ["x"]}, "a: expected at least 3 values, got 1"),
        (lambda r: r.rows("a"), {"a": [1]}, "a[0]: expected an object, got 1"),
        (lambda r: r.rle("a"), {"a": {"size": [4], "counts": ""}}, "size: expected (height"),
        (lambda r: r.rle("a"), {"a": {"size": [4, 4]}}, "counts: is missing"),
        (lambda r: r.box("a"), {"a": [0, 0, 0, 4]}, "a: expected a positive width and height"),
        (lambda r: r.box("a"), {"a": [0, 0, 1]}, "a: expected 4 finite numbers, got [0, 0, 1]"),
        (lambda r: r.clipped_box("a", (9, 9)), {"a": [9, 0, 5, 5]}, "a: lies outside the image"),
    ],
)
def test_errors_name_row_and_field(read: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="row 3") as error:
        read(row(**values))
    assert message in str(error.value)


def test_boxes_become_corners() -> None:
    assert row(a=[2, 3, 10, 5]).box("a") == (2, 3, 12, 8)
    assert row(a=[-2, 3, 10, 50]).clipped_box("a", (20, 30)) == (0, 3, 8, 20)


def test_lines_and_rows(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"x": "1"}\n\n{"x": 2}\n', encoding="utf-8")
    assert [found.values["x"] for found in read_rows(lines)] == ["1", 2]
    lines.write_text('{"x": 1}\n{"x": \n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: not valid JSON"):
        read_rows(lines)
    with pytest.raises(ValueError, match="expected a list, got dict"):
        read_rows(write_json(tmp_path / "b.json", {}))
    with pytest.raises(ValueError, match=r"row 1: expected an object, got 5"):
        read_rows(write_json(tmp_path / "c.json", [{}, 5]))
    with pytest.raises(ValueError, match="expected an object"):
        read_object(write_json(tmp_path / "d.json", []))


def test_files_and_pictures_are_found_where_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data: no such folder"):
        find_file(tmp_path / "none", "a.json")
    with pytest.raises(FileNotFoundError, match=r"has no a\.json or b/a\.json"):
        find_file(tmp_path, "a.json", "b/a.json")
    file = write_json(tmp_path / "b" / "a.json", json.dumps(1))
    assert find_file(tmp_path, "a.json", "b/a.json") == file
    assert picture_name(tmp_path, "a.json", "images", "b", "") == "b/a.json"
    assert picture_name(tmp_path, "p.png", "images", "b", "") == "images/p.png"
