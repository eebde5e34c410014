"""Rows of any form: a record, or a bad row that says why; never another error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastregion.training.data import BadRow, DataSource, Record, check_records, open_source
from fastregion.training.data.readers.described import COLUMNS
from fastregion.training.data.record import FAULTS

NUMBERS = st.one_of(
    st.integers(-5, 60), st.integers(), st.floats(allow_nan=True, width=32), st.just(10**400)
)
TEXTS = st.one_of(
    st.sampled_from(
        ["a.png", "m.png", "gone.png", "", " ", "A cup.", "data:base64,", "\x00", ".."]
    ),
    st.text(max_size=8),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
RLES = st.fixed_dictionaries(
    {},
    optional={
        "size": st.one_of(st.just([30, 40]), st.lists(NUMBERS, max_size=3), SCALARS),
        "counts": st.one_of(TEXTS, st.lists(NUMBERS, max_size=4), SCALARS),
        "segmentation": st.one_of(st.lists(NUMBERS, max_size=9), SCALARS),
        "bbox": st.one_of(st.lists(NUMBERS, max_size=5), SCALARS),
        "bytes": SCALARS,
        "path": TEXTS,
    },
)
MASKS = st.one_of(
    st.just([1, 2, 20, 20]), st.just(tiny_rows.rle()), RLES, st.lists(NUMBERS, max_size=9), TEXTS
)
TURNS = st.fixed_dictionaries(
    {}, optional={"from": st.sampled_from(["human", "gpt", "system", "", 3]), "value": SCALARS}
)
CELLS = st.recursive(
    st.one_of(SCALARS, MASKS, TURNS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
WHOLE: list[dict[str, Any]] = [
    {"image": "a.png", "mask": [1, 2, 20, 20], "caption": "A cup."},
    {"image": "a.png", "mask": "m.png", "conversations": tiny_rows.dialogue("A.")},
    {"image": "a.png", "masks": ["m.png", tiny_rows.rle()], "captions": ["A.", ["B.", "C."]]},
]


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """Rows of which any cell may be changed, added or taken away."""
    row = dict(draw(st.sampled_from(WHOLE)))
    changed = st.sampled_from(["masks", "mask"] * 4 + list(COLUMNS))
    for name in draw(st.lists(changed, max_size=2)):
        if name == "mask":
            row[name] = draw(MASKS)
        elif name == "masks" and "masks" in row:
            row[name] = draw(st.lists(MASKS, min_size=2, max_size=2))
        elif name != "masks":
            row[name] = draw(CELLS)
    for name in draw(st.lists(st.sampled_from(COLUMNS), max_size=1)):
        row.pop(name, None)
    return row


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("rows")
    tiny_rows.write_picture(found / "a.png")
    tiny_rows.write_mask(found / "m.png")
    return found


def check(record: Record) -> None:
    """What every record promises."""
    assert record.size is not None
    size = record.size()
    regions = record.regions()
    assert len(regions) == record.num_regions
    assert all(region.size == size and region.area > 0 for region in regions)
    assert len(record.captions) in (0, record.num_regions)
    assert all(text.strip() for captions in record.captions for text in captions)
    assert all(record.captions) or not record.captions
    assert bool(record.captions) != bool(record.turns)
    assert len(record.category_ids) in (0, record.num_regions)
    assert record.image().shape == (*size, 3)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(row=rows())
def test_any_row(folder: Path, row: dict[str, Any]) -> None:
    tiny_rows.write_lines(folder / "rows.jsonl", [row])
    records = open_source(DataSource(format="jsonl", path="rows.jsonl"), folder)
    report = check_records(records, progress=False)
    if not report.bad:
        check(records[0])
        return
    assert report.bad[0].kind in FAULTS
    assert report.bad[0].message
    with pytest.raises(BadRow):
        check(records[0])


@settings(max_examples=150)
@given(text=st.one_of(st.text(), st.text(alphabet='{}[]",:0123456789eE.-\n'), st.binary()))
def test_any_file(folder: Path, text: str | bytes) -> None:
    file = folder / "any.jsonl"
    data = text.encode("utf-8", errors="surrogatepass") if isinstance(text, str) else text
    file.write_bytes(data)
    if not data:
        return
    records = open_source(DataSource(format="jsonl", path="any.jsonl"), folder)
    lines = [line for line in data.split(b"\n") if line.strip()]
    assert len(records) == len(lines)
    for row in range(len(records)):
        with pytest.raises(BadRow):
            check(records[row])


def test_lines_keep_their_numbers(folder: Path) -> None:
    long = {"image": "a.png", "mask": [0, 0, 9, 9], "caption": "word " * 500_000}
    lines = ["", "  ", json.dumps(long), "", '{"image": 1}', "\t"]
    (folder / "long.jsonl").write_text("\n".join(lines))
    records = open_source(DataSource(format="jsonl", path="long.jsonl"), folder)
    assert [records.name(k) for k in range(len(records))] == [
        "long.jsonl, line 3",
        "long.jsonl, line 5",
    ]
    check(records[0])
    with pytest.raises(BadRow, match="image: expected a path or a picture, got int 1"):
        records[1]
