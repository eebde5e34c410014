"""Segments as values, and their picture."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastregion.models.categories import COCO_PANOPTIC, UNNAMED, Category
from fastregion.models.drawing import draw_segments
from fastregion.models.segment import Segment, plot_segments
from fastregion.regions import Region, as_regions, iou

DOG, GRASS = COCO_PANOPTIC[16], COCO_PANOPTIC[125]


def halves(size: tuple[int, int] = (40, 60)) -> list[Segment]:
    top = np.zeros(size, bool)
    top[: size[0] // 2] = True
    return [
        Segment.of(Region.from_mask(top), id=1, category=DOG, caption="A dog runs.", score=0.9),
        Segment.of(Region.from_mask(~top), id=2, category=GRASS, caption="Green grass."),
    ]


def test_a_segment_is_a_region() -> None:
    dog, grass = halves()
    assert isinstance(dog, Region)
    assert (dog.label, dog.score, dog.area, str(dog)) == ("dog", 0.9, 1200, "A dog runs.")
    assert as_regions([dog, grass], (40, 60)) == [dog, grass]
    assert iou([dog], [dog, grass]).tolist() == [[1.0, 0.0]]
    assert repr(dog).startswith("Segment(box=(0, 0, 60, 20), area=1200")
    half = dog.resize((20, 30))
    assert (half.category, half.caption, half.size) == (DOG, "A dog runs.", (20, 30))


def test_equality_hash_and_pickle_know_category_and_caption() -> None:
    dog, _ = halves()
    again = pickle.loads(pickle.dumps(dog))
    assert type(again) is Segment
    assert again == dog
    assert hash(again) == hash(dog)
    for change in ({"caption": "A cat."}, {"category": COCO_PANOPTIC[15]}, {"iscrowd": True}):
        given = {"id": 1, "category": DOG, "caption": "A dog runs.", "score": 0.9, **change}
        assert Segment.of(dog, **given) != dog  # type: ignore[arg-type]
    assert Region.from_mask(dog.mask, id=1, label="dog", score=0.9) != dog


def test_json() -> None:
    dog, grass = halves()
    values = json.loads(json.dumps(dog.to_dict()))
    assert values == {
        "id": 1,
        "category": "dog",
        "category_id": 18,
        "isthing": True,
        "iscrowd": False,
        "score": 0.9,
        "caption": "A dog runs.",
        "box": [0, 0, 60, 20],
        "area": 1200,
        "rle": dict(dog.rle),
    }
    assert "score" not in grass.to_dict()


def test_lines() -> None:
    dog, _ = halves()
    assert dog.line == "dog: A dog runs."
    assert Segment.of(dog, id=1, category=DOG).line == "dog"
    assert Segment.of(dog, id=1, category=UNNAMED, caption="Red.").line == "Red."


def test_fields_are_checked() -> None:
    dog, _ = halves()
    with pytest.raises(TypeError, match="category: expected Category, got str"):
        Segment.of(dog, id=1, category="dog")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="caption: expected str, got NoneType"):
        Segment.of(dog, id=1, category=DOG, caption=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="category: id must be at least 0, got -1"):
        Category(-1, "dog", isthing=True)
    with pytest.raises(ValueError, match="category: the name of 3 is blank"):
        Category(3, " ", isthing=True)
    with pytest.raises(TypeError, match="category: id must be an integer"):
        Category("3", "dog", isthing=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="category: name must be str"):
        Category(3, 4, isthing=True)  # type: ignore[arg-type]


def test_a_picture_is_tinted_numbered_and_captioned(tmp_path: Path) -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    found = halves((200, 300))
    drawing = plot_segments(image, found, tmp_path / "out.png")
    assert drawing.width == 720
    assert drawing.height > 480  # captions below
    with Image.open(tmp_path / "out.png") as saved:
        assert saved.size == drawing.size
    values = np.asarray(drawing).astype(int)
    upper, lower = values[60, 100], values[400, 100]
    assert np.abs(upper - lower).sum() > 60  # two colours
    assert np.abs(upper - upper.mean()).sum() > 30  # neither is grey
    one = plot_segments(image, found[:1])
    assert np.abs(np.asarray(one)[400, 100].astype(int) - 90).max() <= 1  # void keeps its grey


def test_numbers_stand_inside() -> None:
    image = np.full((120, 160, 3), 255, np.uint8)
    ring = np.zeros((120, 160), bool)
    ring[10:110, 10:150] = True
    ring[20:100, 60:150] = False  # thick at the left only; the middle of its box is not in it
    drawn = np.asarray(draw_segments(image, [ring]), dtype=int)  # 540 x 720
    dark = drawn.max(-1) < 150
    dark[:60] = dark[480:] = dark[:, :60] = dark[:, 255:] = False  # outlines
    rows, columns = dark.nonzero()
    assert len(rows) > 60  # ring and digit of the badge
    assert np.abs(rows / 4.5 - 60).max() < 8
    assert np.abs(columns / 4.5 - 35).max() < 8


def test_pictures_of_nothing_and_of_other_sizes() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    assert plot_segments(image, []).width == 720
    with pytest.raises(ValueError, match=r"segments: segment 0 must have size \(40, 61\)"):
        plot_segments(np.zeros((40, 61, 3), np.uint8), halves())
    with pytest.raises(ValueError, match="path: must end in"):
        plot_segments(image, halves(), "out.txt")
