"""The result file: what is written can be read, and a stopped run can go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastregion.evaluation.ground_truth import Neighbor, RegionTruth, scene_truths
from fastregion.evaluation.records import Record, RecordFile
from fastregion.scenes import generate_scene

HEADER = {"task": "mini", "version": 1, "model": "a"}


def make_record(name: str) -> Record:
    truth = RegionTruth(
        colors=frozenset(("red", "pink")),
        color_shares={"red pink": 0.75, "": 0.25},
        hole=True,
        places=frozenset(),
        neighbors=(Neighbor(relations=frozenset(("inside",)), shapes=frozenset(("round",))),),
        centroid=(0.25, 0.5),
        area=0.125,
    )
    return Record(
        name=name,
        group="scenes",
        lookalike=True,
        complete=False,
        captions=("one é", ""),
        truths=(truth, RegionTruth(centroid=(0.0, 1.0), area=0.5)),
        log_probs=((-0.5, -1.25), None),
    )


def test_json_round_trip_is_exact() -> None:
    record = make_record("scene 7")
    assert Record.from_json(record.to_json()) == record
    assert "\n" not in record.to_json()


@pytest.mark.parametrize("seed", [0, 3])
def test_truths_of_scenes_survive_the_round_trip(seed: int) -> None:
    truths = tuple(scene_truths(generate_scene(seed)))
    count = len(truths)
    record = Record(
        name="scene",
        group="scenes",
        lookalike=False,
        complete=True,
        captions=("a",) * count,
        truths=truths,
        log_probs=(None,) * count,
    )
    assert Record.from_json(record.to_json()) == record


def test_a_second_run_finds_what_the_first_one_wrote(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "results.jsonl"
    first = RecordFile(path, HEADER)
    first.add(make_record("a"))
    first.add(make_record("b"))
    second = RecordFile(path, HEADER)
    assert second.records == {"a": make_record("a"), "b": make_record("b")}
    second.add(make_record("c"))
    assert list(RecordFile(path, HEADER).records) == ["a", "b", "c"]


@pytest.mark.parametrize("kept", [1, 20, 200])
def test_a_line_torn_by_a_stop_is_dropped(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "results.jsonl"
    file = RecordFile(path, HEADER)
    file.add(make_record("a"))
    whole = path.read_bytes()
    path.write_bytes(whole + make_record("b").to_json().encode()[:kept])
    again = RecordFile(path, HEADER)
    assert list(again.records) == ["a"]
    assert path.read_bytes() == whole
    again.add(make_record("b"))
    assert list(RecordFile(path, HEADER).records) == ["a", "b"]


@pytest.mark.parametrize("found", ["", '{"task": "mi'])
def test_a_stop_before_the_first_line_was_whole_starts_anew(tmp_path: Path, found: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(found)
    assert RecordFile(path, HEADER).records == {}
    assert RecordFile(path, HEADER).records == {}


def test_results_of_something_else_are_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    RecordFile(path, HEADER).add(make_record("a"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"output: .* holds results of .*'model': 'a'"):
        RecordFile(path, {**HEADER, "model": "b"})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no results\n", b"[1]\nmore\n", b"\xff\xd8\xff", b"{}"])
def test_other_files_are_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"output: .*notes\.txt"):
        RecordFile(path, HEADER)
    assert path.read_bytes() == content


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    RecordFile(path, HEADER).add(make_record("a"))
    path.write_text(path.read_text() + '{"name": "b"}\n' + make_record("c").to_json() + "\n")
    with pytest.raises(ValueError, match="line 3 is damaged"):
        RecordFile(path, HEADER)


def test_without_a_path_records_stay_in_memory() -> None:
    file = RecordFile(None, HEADER)
    file.add(make_record("a"))
    assert list(file.records) == ["a"]
