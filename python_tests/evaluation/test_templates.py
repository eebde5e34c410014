"""Template files of judges."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fastregion.evaluation.templates import read_template


def test_the_users_file_in_place_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_bytes("Is {caption} right?\r\né".encode())
    found = read_template("dlc_bench.txt", file)
    assert found is not None
    assert (found.name, found.text) == ("own.txt", "Is {caption} right?\r\né")
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_benchmark_without_a_judge(tmp_path: Path) -> None:
    assert read_template(None) is None
    with pytest.raises(ValueError, match="template: this benchmark has no wording"):
        read_template(None, tmp_path / "own.txt")


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="template: no such file"):
        read_template("dlc_bench.txt", tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"template: .* is no UTF-8 text"):
        read_template("dlc_bench.txt", tmp_path / "binary")
    (tmp_path / "large").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(ValueError, match=r"template: .* is larger than 1 MiB"):
        read_template("dlc_bench.txt", tmp_path / "large")
