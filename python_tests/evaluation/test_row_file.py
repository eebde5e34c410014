"""The files of rows: what is written can be read, and a stopped run can go on."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fastregion.evaluation.row_file import RowFile, read_header, write_whole

HEADER = {"kind": "notes", "version": 1, "model": "a"}


def by_name(row: Mapping[str, Any]) -> str:
    name: str = row["name"]
    return name


def open_rows(path: Path | None, header: Mapping[str, Any] = HEADER) -> RowFile:
    return RowFile(path, header, key=by_name)


def make_row(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "text": "one é\n\u2028",
        "numbers": [-0.1, None, 1e-300],
        "more": {"a": 1},
    }


def test_a_second_run_finds_what_the_first_one_wrote(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "rows.jsonl"
    first = open_rows(path)
    first.add(make_row("a"), make_row("b"))
    second = open_rows(path)
    assert second.rows == {"a": make_row("a"), "b": make_row("b")}
    second.add(make_row("c"))
    assert list(open_rows(path).rows) == ["a", "b", "c"]
    assert read_header(path) == HEADER


def test_the_later_row_of_a_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    file = open_rows(path)
    file.add(make_row("a"))
    file.add({"name": "a", "text": "new"})
    for rows in (file.rows, open_rows(path).rows):
        assert rows == {"a": {"name": "a", "text": "new"}}


@pytest.mark.parametrize("kept", [1, 20, 60])
def test_a_line_torn_by_a_stop_is_dropped(tmp_path: Path, kept: int) -> None:
    path, other = tmp_path / "rows.jsonl", tmp_path / "other.jsonl"
    open_rows(path).add(make_row("a"))
    whole = path.read_bytes()
    open_rows(other).add(make_row("b"))
    torn = other.read_bytes().split(b"\n")[1][:kept]
    path.write_bytes(whole + torn)
    again = open_rows(path)
    assert list(again.rows) == ["a"]
    assert path.read_bytes() == whole
    again.add(make_row("b"))
    assert list(open_rows(path).rows) == ["a", "b"]


@pytest.mark.parametrize("found", ["", '{"kind": "no'])
def test_a_stop_before_the_first_line_was_whole_starts_anew(tmp_path: Path, found: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(found)
    assert open_rows(path).rows == {}
    assert open_rows(path).rows == {}


def test_rows_of_something_else_are_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    open_rows(path).add(make_row("a"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"output: .* holds results of .*'model': 'a'"):
        open_rows(path, {**HEADER, "model": "b"})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no results\n", b"[1]\nmore\n", b"\xff\xd8\xff", b"{}"])
def test_other_files_are_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"output: .*notes\.txt"):
        open_rows(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", ['{"text": "no name"}', "[1]", "{", "\x00"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    open_rows(path).add(make_row("a"))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match="line 3 is damaged"):
        open_rows(path)


def test_without_a_path_rows_stay_in_memory() -> None:
    file = open_rows(None)
    file.add(make_row("a"))
    assert list(file.rows) == ["a"]


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    file = open_rows(path)
    threads = [
        threading.Thread(
            target=lambda k=k: [file.add(make_row(f"{k} {n}")) for n in range(50)]  # type: ignore[misc]
        )
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(open_rows(path).rows) == 200


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    write_whole(path, "half \ud800")
    assert path.read_text() == "half ?"
    write_whole(path, "one")

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "two")
    assert path.read_text() == "one"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
