"""The table, recomputed by hand on a few records."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from fastregion.evaluation.ground_truth import RegionTruth
from fastregion.evaluation.records import Record
from fastregion.evaluation.report import Measure, Report, make_report

HEADER = {"task": "mini", "version": 1, "model": "a model"}


def truth(color: str, pattern: str | None, size: str = "small", place: str = "left") -> RegionTruth:
    return RegionTruth(
        colors=frozenset((color,)),
        color_shares={color: 1.0},
        patterns=None if pattern is None else frozenset((pattern,)),
        shapes=frozenset(("round",)),
        sizes=frozenset((size,)),
        places=frozenset((place,)),
        centroid=(0.5, 0.5),
        area=0.1,
    )


def record(
    name: str,
    captions: tuple[str, ...],
    truths: tuple[RegionTruth, ...],
    log_probs: tuple[tuple[float, ...] | None, ...],
    *,
    lookalike: bool = False,
    group: str = "scenes",
) -> Record:
    return Record(
        name=name,
        group=group,
        lookalike=lookalike,
        complete=True,
        captions=captions,
        truths=truths,
        log_probs=log_probs,
    )


RECORDS = [
    record(
        "scene 0",
        (
            "Small plain red round region at the left.",  # all right
            "Small plain blue square region at the left.",  # shape wrong, pattern wrong
            "A blue region.",  # colour wrong; the rest is missing
        ),
        (truth("red", "plain"), truth("blue", "striped"), truth("red", None)),
        ((-1.0, -2.0, -3.0), (-1.5, -1.0, -0.5), (-1.0, -1.0, -1.0)),
    ),
    record(
        "scene 1",
        ("Small plain red round region at the left.", ""),
        (truth("red", "plain"), truth("red", "dotted")),
        ((-1.0, -2.0), None),
        lookalike=True,
    ),
    record(
        "photo a b",
        ("Large plain red round region at the left.",),
        (truth("red", "plain"),),
        (None,),
        group="photos",
    ),
]


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report(HEADER, RECORDS)


# (value, number of captions scored), counted by hand from RECORDS
SCENES = {
    "main colour": (3 / 5, 5),  # right: 0.0, 0.1, 1.0
    "place": (3 / 5, 5),
    "size": (3 / 5, 5),
    "shape": (2 / 5, 5),
    "pattern": (2 / 4, 4),  # the pattern of 0.2 is not known
    "pattern, balanced": ((2 / 2 + 0 / 1 + 0 / 1) / 3, 4),  # plain, striped, dotted
    "self-retrieval": (2 / 5, 5),  # 0.0 and 1.0; a tie is no retrieval, nor is an empty caption
    "self-retrieval, look-alikes": (1 / 2, 2),
    "true of its region alone": (1 / 5, 5),  # 1.0; what 0.0 says is true of 0.2 too
    "any wrong statement": (2 / 5, 5),
    "wrong color": (1 / 5, 5),
    "wrong pattern": (1 / 5, 5),
    "wrong shape": (1 / 5, 5),
    "wrong size": (0.0, 5),
    "wrong place": (0.0, 5),
}
PHOTOS = {
    "main colour": (1.0, 1),
    "size": (0.0, 1),
    "self-retrieval": (None, 0),  # a single region
    "any wrong statement": (1.0, 1),
    "wrong size": (1.0, 1),
}


@pytest.mark.parametrize(("group", "expected"), [("scenes", SCENES), ("photos", PHOTOS)])
def test_numbers_are_those_counted_by_hand(
    report: Report, group: str, expected: dict[str, tuple[float | None, int]]
) -> None:
    found = {measure.name: measure for measure in report.groups[group]}
    for name, (value, count) in expected.items():
        assert found[name].count == count, name
        if value is None:
            assert found[name].value is None, name
        else:
            assert found[name].value == pytest.approx(value), name


def test_wrong_statements_are_the_only_measures_where_lower_is_better(report: Report) -> None:
    for measure in report.groups["scenes"]:
        assert measure.higher_is_better is ("wrong" not in measure.name)


def test_json_holds_header_and_measures(report: Report) -> None:
    values = json.loads(json.dumps(report.to_json()))
    assert values["model"] == "a model"
    assert values["groups"]["scenes"]["place"] == {
        "name": "place",
        "value": pytest.approx(0.6),
        "count": 5,
        "higher_is_better": True,
    }


def test_table_shows_percent_of_every_group() -> None:
    report = Report(
        header=HEADER,
        groups={
            "scenes": (Measure(name="place", value=0.875, count=8),),
            "photos": (Measure(name="place", value=None, count=0),),
        },
    )
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(report)
    text = capture.get()
    assert "a model on mini" in text
    row = next(line for line in text.splitlines() if "place" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["place", "87.5", "8", "-", "0"]


def test_no_records_make_an_empty_report() -> None:
    assert make_report(HEADER, []).groups == {}
