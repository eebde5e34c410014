"""Sources side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_rows

from fastregion.regions import rle_encode
from fastregion.training.data import (
    DataSource,
    open_sources,
)


def test_sources_side_by_side(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 2)):
        tiny_rows.write_picture(tmp_path / "x.png")
        rows = [
            {"image": "x.png", "mask": [0, 0, 5, 5], "caption": f"{name}{k}", "id": k}
            for k in range(count)
        ]
        tiny_rows.write_lines(tmp_path / f"{name}.jsonl", rows)
    a, b = (
        DataSource(format="jsonl", path=f"{n}.jsonl", repeat=r) for n, r in (("a", 2), ("b", 0.5))
    )
    both = open_sources([a, b], tmp_path)
    assert len(both) == 5
    assert [record.captions[0][0] for record in both] == ["a0", "a1", "a2", "b0", "b1"]
    assert [record.id for record in both] == ["0/0", "0/1", "0/2", "1/0", "1/1"]
    assert both.repeats.tolist() == [2, 2, 2, 0.5, 0.5]
    assert both.name(3) == "b.jsonl, line 1"
    assert open_sources([b], tmp_path)[1].id == "1"
    with pytest.raises(ValueError, match="expected at least one source"):
        open_sources([], tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "csv"}, "format: expected one of gar, dam, .*, got 'csv'"),
        ({"path": ""}, "path: expected a file or a folder, got ''"),
        ({"repeat": 0}, "repeat: expected a positive number, got 0"),
        ({"repeat": float("nan")}, "repeat: expected a positive number"),
        ({"split": "train"}, "split: is not used by the format 'jsonl'"),
        ({"columns": {"picture": "x"}}, "columns: expected names of columns for image"),
        ({"format": "pix2cap"}, "images: is needed for pix2cap"),
        ({"format": "ureca", "masks": "m"}, "masks: is not used by the format 'ureca'"),
    ],
)
def test_a_source_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSource(**{"format": "jsonl", "path": "x", **values})


def test_rle_fixture_is_what_it_says() -> None:
    assert dict(rle_encode(tiny_rows.mask())) == tiny_rows.rle()
