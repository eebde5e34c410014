"""``fastregion segment`` with the built-in captioner and with one that finds segments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastregion.models
from fastregion.cli import main
from fastregion.models.base import Captioner
from fastregion.models.categories import COCO_PANOPTIC
from fastregion.models.coco_panoptic import PanopticFiles
from fastregion.models.segment import Segment
from fastregion.regions import Region


class Canned(Captioner):
    """Finds a person and the sky."""

    model_type = "canned"

    def __init__(self, count: int = 2) -> None:
        self.model_id = "canned"
        self.count = count

    def segment(self, image: Any) -> list[Segment]:
        height, width = image.shape[:2]
        boxes = ((0, 5, width, height), (0, 0, width, 5))
        return [
            Segment.of(
                Region.from_box(box, (height, width)),
                id=number,
                category=COCO_PANOPTIC[index],
                caption=text,
                score=0.75,
            )
            for number, (box, index, text) in enumerate(
                zip(boxes, (0, 119), ("Someone walks.", "It is blue."), strict=True), start=1
            )
        ][: self.count]

    def _missing(self, *args: Any) -> Any:
        raise AssertionError("no model is run here")

    build_model = process = encode = append_text = _missing
    decoder = eos_token_ids = property(_missing)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 40), (90, 120, 200)).save(tmp_path / "000000000139.png")
    return tmp_path / "000000000139.png"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["segment", *map(str, arguments)])
    assert isinstance(caught.value.code, int)
    return caught.value.code, *capsys.readouterr()


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Canned:
    captioner = Canned()
    monkeypatch.setattr(fastregion.models, "load", lambda name: captioner)
    return captioner


def test_a_segmenter(
    canned: Canned, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, text, error = run(capsys, photo, "--plot", tmp_path / "plot.png", "--panoptic", out)
    assert (code, error) == (0, "")
    assert text.splitlines() == [
        "Segments: canned. Descriptions: canned.",
        "1: person: Someone walks.",
        "2: sky-other-merged: It is blue.",
    ]
    with Image.open(tmp_path / "plot.png") as drawing:
        assert drawing.width == 720
    (image,) = PanopticFiles(out / "panoptic.json")
    assert (image.image_id, image.file_name, image.size) == (139, photo.name, (40, 60))
    assert [segment.caption for segment in image.segments] == ["Someone walks.", "It is blue."]
    assert [segment.score for segment in image.segments] == [0.75, 0.75]


def test_pictures_are_added_to_a_folder(
    canned: Canned, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 50)).save(tmp_path / "other.jpg")
    out = tmp_path / "out"
    for picture in (photo, tmp_path / "other.jpg", photo):
        assert run(capsys, picture, "--panoptic", out)[0] == 0
    found = list(PanopticFiles(out / "panoptic.json"))
    assert [image.image_id for image in found] == ["other", 139]
    assert [image.size for image in found] == [(50, 30), (40, 60)]
    Image.new("RGB", (30, 50)).save(tmp_path / "other.bmp")
    code, text, error = run(capsys, tmp_path / "other.bmp", "--panoptic", out)
    assert (code, text) == (2, "")
    assert "holds 'other.jpg' as image 'other'; rename 'other.bmp'" in error
    (out / "panoptic" / "other.png").unlink()
    code, text, error = run(capsys, photo, "--panoptic", out)
    assert (code, text) == (2, "")
    assert "no such file" in error


def test_json(canned: Canned, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads(run(capsys, photo, "--json")[1])
    assert set(values) == {"image", "found_by", "described_by", "segments"}
    assert (values["image"], values["found_by"]) == (str(photo), "canned")
    assert [segment["category_id"] for segment in values["segments"]] == [1, 187]


def test_nothing_found(
    canned: Canned, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canned.count = 0
    code, text, error = run(
        capsys, photo, "--plot", tmp_path / "plot.png", "--panoptic", tmp_path / "out"
    )
    assert (code, error, text.count("\n")) == (0, "", 1)
    assert (tmp_path / "plot.png").exists()
    (image,) = PanopticFiles(tmp_path / "out" / "panoptic.json")
    assert image.segments == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plot", "out.txt"], "--plot: must end in"),
        (["--max-regions", "0"], "'--max-regions'"),
        (["--panoptic", __file__], "is a file"),
        (["--model", "nothing"], "model: unknown name"),
    ],
)
def test_wrong_options(
    photo: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, text, error = run(capsys, photo, *arguments)
    assert (code, text, error.count("\n")) == (2, "", 1)
    assert said in error


def test_without_the_library(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    code, text, error = run(capsys, photo)
    assert (code, text, error.count("\n")) == (2, "", 1)
    assert 'pip install "fastregion[segment]"' in error


def test_the_built_in_captioner_in_a_process(tmp_path: Path) -> None:
    image = np.full((240, 320, 3), 150, np.uint8)
    image[30:110, 20:100] = (205, 35, 35)
    image[130:220, 180:290] = (40, 160, 50)
    Image.fromarray(image).save(tmp_path / "scene.png")
    result = subprocess.run(
        [sys.executable, "-m", "fastregion", "segment", "scene.png", "--json",
         "--plot", "plot.png", "--panoptic", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    values = json.loads(result.stdout)
    assert values["found_by"].startswith("areas of like colour (felzenszwalb, scikit-image ")
    assert values["described_by"] == "fastregion/mini"
    captions = {segment["area"]: segment["caption"] for segment in values["segments"]}
    assert len(captions) == 3
    smallest_first = [captions[area] for area in sorted(captions)]
    assert "red" in smallest_first[0]
    assert "green" in smallest_first[1]
    assert {segment["category"] for segment in values["segments"]} == {"region"}
    (found,) = PanopticFiles(tmp_path / "out" / "panoptic.json")
    assert [segment.caption for segment in found.segments] == [
        segment["caption"] for segment in values["segments"]
    ]
