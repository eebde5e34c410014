"""Two results side by side, and how sure a difference is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fastregion.evaluation.compare import compare
from fastregion.evaluation.intervals import bootstrap, paired_bootstrap
from fastregion.evaluation.report import printable
from fastregion.evaluation.result import Entry, ItemResult, Result, read_result


def make_result(
    texts: Sequence[str], right: Sequence[float], wrong: Sequence[float], **header: Any
) -> Result:
    items = {
        str(k): ItemResult(group="g", text=text, numbers={"right": right[k], "wrong": wrong[k]})
        for k, text in enumerate(texts)
    }

    def entry(values: Sequence[float], higher: bool) -> Entry:
        found = bootstrap(values)
        return Entry(value=found.mean, low=found.low, high=found.high, higher_is_better=higher)

    table: Mapping[str, Entry] = {
        "right": entry(right, True),
        "wrong": entry(wrong, False),
        "ratio": Entry(value=right[0]),
    }
    about = {"benchmark": "toy", "version": 1, "model": "m", "judge": None, **header}
    return Result(header=about, table=table, items=items)


A = make_result(["a", "b", "c", "d"], [1, 0, 1, 1], [0, 1, 0, 0])
B = make_result(["a", "x", "c", "y"], [1, 1, 1, 0], [0, 0, 0, 1], model="n")


def test_differences_are_paired() -> None:
    found = compare(A, B)
    right = found.differences["right"]
    assert (right.a, right.b, right.count) == (0.75, 0.75, 4)
    assert right.paired is not None
    assert right.paired.mean == 0.0
    assert right.paired.low < 0 < right.paired.high
    assert found.differences["ratio"].paired is None
    assert not found.differences["wrong"].higher_is_better


def test_items_that_changed_worse_first() -> None:
    found = compare(A, B)
    assert [(change.item, change.better) for change in found.changes] == [("3", -2), ("1", 2)]
    assert found.changes[0].numbers == {"right": (1.0, 0.0), "wrong": (0.0, 1.0)}
    assert (found.changes[0].a, found.changes[0].b) == ("d", "y")
    assert compare(A, A).changes == []


def test_only_common_items_are_paired() -> None:
    short = make_result(["a", "b"], [1, 1], [0, 0])
    found = compare(A, short)
    assert found.differences["right"].count == 2
    assert "a has 4 items, b 2, 2 are in both" in found.notes[0]


def test_what_else_differs_is_said() -> None:
    found = compare(A, make_result(["a"], [1], [0], judge="j"))
    assert any(note == "judge: a has None, b j" for note in found.notes)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"benchmark": "other"}, "compare: both must be of the same benchmark, got 'toy' and"),
        ({"version": 2}, "compare: both must be of the same version, got 1 and 2"),
    ],
)
def test_different_benchmarks_are_refused(header: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(A, make_result(["a"], [1], [0], **header))


def test_nothing_in_common_is_refused() -> None:
    other = Result(header=A.header, table={}, items={"z": ItemResult(group="g", text="z")})
    with pytest.raises(ValueError, match="no item in common"):
        compare(A, other)


def test_what_is_printed() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(compare(A, B))
    text = capture.get()
    for part in (
        "a: m on toy",
        "b: n on toy",
        "2 items changed: 1 for the better, 1 for the worse",
    ):
        assert part in text
    assert json.loads(json.dumps(compare(A, B).to_json()))["differences"]["right"]["count"] == 4


def test_results_on_disk(tmp_path: Path) -> None:
    A.save(tmp_path)
    assert compare(read_result(tmp_path, "compare"), A).changes == []
    for content in ("[]", "{}", '{"table": 3, "items": {}}', '{"table": {}, "items": {}, "x": 1}'):
        (tmp_path / "scores.json").write_text(content)
        with pytest.raises(ValueError, match=r"compare: .*scores\.json"):
            read_result(tmp_path, "compare")


def test_the_interval_covers_the_mean_95_times_of_100() -> None:
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(100):
        found = bootstrap(random.random(40).tolist())
        covered += found.low <= 0.5 <= found.high
    assert 88 <= covered <= 99


def test_intervals_are_repeatable_and_narrow_with_more_items() -> None:
    values = np.random.default_rng(8).random(400).tolist()
    few, many = bootstrap(values[:25]), bootstrap(values)
    assert bootstrap(values) == many
    assert (many.high - many.low) < (few.high - few.low) / 2
    one = bootstrap([0.3])
    assert (one.low, one.high) == (0.3, 0.3)


def test_pairing_takes_what_items_share_out_of_the_difference() -> None:
    random = np.random.default_rng(9)
    hard = random.random(100)
    found = paired_bootstrap(hard.tolist(), (hard + 0.1 + 0.01 * random.random(100)).tolist())
    assert 0.1 < found.low < found.high < 0.11
    with pytest.raises(ValueError, match="others: expected 100 numbers, got 1"):
        paired_bootstrap(hard.tolist(), [1.0])


def test_what_a_model_says_does_not_command_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\ud800\nc\u00e9").plain == "a\ufffd[2Jb\ufffd\ufffd\nc\u00e9"
