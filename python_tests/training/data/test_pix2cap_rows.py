"""Pix2Cap-COCO as the training sees it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_rows
from PIL import Image

from fastregion.models import coco_panoptic
from fastregion.models.categories import COCO_PANOPTIC
from fastregion.models.segment import Segment
from fastregion.regions import Region
from fastregion.training.data import (
    BadRow,
)


def segment(number: int, category: int, caption: str, crowd: bool = False) -> Segment:
    inside = np.zeros(tiny_rows.SIZE, bool)
    inside[:, number * 10 : number * 10 + 10] = True
    region = Region.from_mask(inside)
    known = {found.id: found for found in COCO_PANOPTIC}
    return Segment.of(
        region, id=number + 1, category=known[category], caption=caption, iscrowd=crowd
    )


@pytest.fixture
def pix2cap(tmp_path: Path) -> Path:
    images = [
        ("one.jpg", [segment(0, 1, "A man."), segment(1, 200, "A rug."), segment(2, 3, "", True)]),
        ("two.jpg", [segment(0, 1, "A man."), segment(1, 17, "ox")]),
        ("three.jpg", [segment(3, 17, "A cat."), segment(2, 1, "People.", True)]),
        ("four.jpg", [segment(0, 1, "Crowd.", True)]),
    ]
    files = [
        coco_panoptic.PanopticImage(number, name, tiny_rows.SIZE, tuple(found))
        for number, (name, found) in enumerate(images)
    ]
    coco_panoptic.write_panoptic(tmp_path / "train.json", files)
    content = json.loads((tmp_path / "train.json").read_text())
    for annotation in content["annotations"]:
        for info in annotation["segments_info"]:
            info["description"] = info.pop("caption")
    # A crowd without a description would leave the image out as well.
    content["annotations"][0]["segments_info"][2]["description"] = "Some cars."
    (tmp_path / "train.json").write_text(json.dumps(content))
    for name, _ in images:
        tiny_rows.write_picture(tmp_path / "pictures" / name)
    return tmp_path


def test_pix2cap_rows(pix2cap: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = {"format": "pix2cap", "path": "train.json", "images": "pictures"}
    records = tiny_rows.opened(pix2cap, **source)
    assert len(records) == 3  # one image has a description of two characters
    assert caplog.messages == [f"{pix2cap / 'train.json'}: 1 of 4 images are left out"]
    first, third = records[0], records[1]
    assert np.array_equal(first.image(), tiny_rows.pixels())
    assert (first.id, third.id) == ("0", "2")
    assert first.captions == (("A man.",), ("A rug.",))
    assert first.category_ids == (1, 200)
    assert first.class_names == ("person", "rug-merged")
    segments = first.regions()
    assert len(segments) == first.num_regions == 2
    assert all(isinstance(found, Segment) for found in segments)
    assert [found.box for found in segments] == [(0, 0, 10, 30), (10, 0, 20, 30)]
    assert third.category_ids == (17,)
    assert records.name(1) == "train.json, image 2"
    with pytest.raises(BadRow, match="has no segment but crowds"):
        records[2]
    (pix2cap / "train/one.png").unlink()
    Image.new("RGB", (8, 8)).save(pix2cap / "pictures/three.jpg")
    with pytest.raises(BadRow, match=r"no such file: .*one\.png") as caught:
        first.regions()
    assert caught.value.kind == "missing file"
    with pytest.raises(BadRow, match=r"expected shape \(8, 8\) to match the image, got \(30, 40\)"):
        third.regions()
    with pytest.raises(FileNotFoundError, match="no such folder"):
        tiny_rows.opened(pix2cap, **{**source, "images": "nowhere"})


def test_pix2cap_needs_descriptions(pix2cap: Path) -> None:
    content = json.loads((pix2cap / "train.json").read_text())
    for annotation in content["annotations"]:
        annotation["segments_info"][0]["description"] = "ox"
    (pix2cap / "train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="every image has a segment whose description is shorter"):
        tiny_rows.opened(pix2cap, format="pix2cap", path="train.json", images="pictures")
