"""The first command of the README with the built-in captioner, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the command says about a red square and a green disc on gray."""
    folder = tmp_path_factory.mktemp("scene")
    image = np.full((240, 320, 3), 150, np.uint8)
    image[30:110, 20:100] = (205, 35, 35)
    rows, columns = np.mgrid[:240, :320]
    disc = (rows - 170) ** 2 + (columns - 240) ** 2 < 50**2
    image[disc] = (40, 160, 50)
    Image.fromarray(image).save(folder / "scene.png")
    Image.fromarray(disc).save(folder / "disc.png")
    result = subprocess.run(
        [sys.executable, "-m", "fastregion", "describe", "scene.png", "--json",
         "--mask", "disc.png", "--box", "20,30,100,110", "--plot", "drawing.png"],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    with Image.open(folder / "drawing.png") as drawing:
        assert drawing.width == 720
    descriptions: list[dict[str, Any]] = json.loads(result.stdout)["descriptions"]
    return descriptions


def test_two_regions_of_one_picture_get_two_true_sentences(answers: list[dict[str, Any]]) -> None:
    disc, square = (answer["text"] for answer in answers)
    assert "green" in disc
    assert "red" in square
    for text in (disc, square):
        assert text.endswith(".")
        assert len(text.split()) < 60


def test_answers_are_complete(answers: list[dict[str, Any]]) -> None:
    assert [answer["model"] for answer in answers] == ["fastregion/mini"] * 2
    assert [answer["finish_reason"] for answer in answers] == ["stop"] * 2
    assert answers[1]["region"]["box"] == [20, 30, 100, 110]


def test_packaged_weights_are_small() -> None:
    from fastregion.models.auto import BUILT_IN

    folder = Path(BUILT_IN["fastregion/mini"])
    assert sum(file.stat().st_size for file in folder.iterdir()) < 25 * 2**20
