"""COCO panoptic files: what is written is read again, and what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastregion.models import coco_panoptic
from fastregion.models.categories import COCO_PANOPTIC, Category
from fastregion.models.coco_panoptic import (
    MissingImageError,
    PanopticFiles,
    PanopticImage,
    SegmentIdError,
    UnknownCategoryError,
    write_panoptic,
)
from fastregion.models.segment import Segment
from fastregion.regions import Region

SIZE = (30, 70)


def boxes(*records: tuple[int, Category, tuple[int, int, int, int]]) -> tuple[Segment, ...]:
    return tuple(
        Segment.of(
            Region.from_box(box, SIZE),
            id=number,
            category=category,
            caption=f"a {category.name}, “{number}”",
            score=0.5 if number > 1 else None,
            iscrowd=number == 1,
        )
        for number, category, box in records
    )


def two_images() -> list[PanopticImage]:
    own = Category(7001, "zeppelin", isthing=True)
    return [
        PanopticImage(
            7,
            "a.jpg",
            SIZE,
            boxes(
                (1, COCO_PANOPTIC[0], (0, 0, 5, 5)),
                (255, COCO_PANOPTIC[1], (5, 0, 9, 9)),
                (256, COCO_PANOPTIC[100], (20, 0, 30, 9)),
                (70_000, own, (30, 0, 31, 30)),
                ((1 << 24) - 1, COCO_PANOPTIC[132], (40, 3, 70, 30)),
            ),
        ),
        PanopticImage("nothing", "b.jpg", SIZE, ()),
    ]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_panoptic(tmp_path / "panoptic.json", two_images())
    return tmp_path / "panoptic.json"


def changed(file: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_written_and_read_again(files: Path) -> None:
    found = PanopticFiles(files)
    assert found.image_ids == (7, "nothing")
    assert len(found) == 2
    for image, expected in zip(found, two_images(), strict=True):
        assert (image.image_id, image.file_name, image.size) == (
            expected.image_id,
            expected.file_name,
            expected.size,
        )
        assert image.segments == expected.segments
    content = json.loads(files.read_text(encoding="utf-8"))
    info = content["annotations"][0]["segments_info"][2]
    assert (info["bbox"], info["area"]) == ([20, 0, 10, 9], 90)
    rgb = np.asarray(Image.open(files.with_suffix("") / "a.png"))
    assert rgb[1, 22].tolist() == [0, 1, 0]  # 256
    assert rgb[29, 30].tolist() == [70_000 & 255, 70_000 >> 8 & 255, 70_000 >> 16]
    assert {entry["id"]: entry["isthing"] for entry in content["categories"]} == {
        1: 1,
        2: 1,
        149: 0,
        200: 0,
        7001: 1,
    }


def test_descriptions_are_captions_too(files: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        for info in content["annotations"][0]["segments_info"]:
            info["description"] = info.pop("caption")
            del info["iscrowd"], info["area"], info["bbox"]
        del content["categories"][-1]["isthing"]

    with pytest.raises(ValueError, match="'isthing' of an entry must be"):
        PanopticFiles(changed(files, rename))
    changed(files, lambda content: content["categories"][-1].update(isthing=1))
    found = PanopticFiles(files).read(7)
    assert [s.caption for s in found.segments] == [s.caption for s in two_images()[0].segments]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["annotations"][0]["segments_info"].pop(1),
            r"image 7: .*only in the JSON: \[\], only in the PNG: \[255\]",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"].append({"id": 9, "category_id": 1}),
            r"only in the JSON: \[9\], only in the PNG: \[\]",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"].append({"id": 255, "category_id": 1}),
            r"twice: \[255\]",
        ),
    ],
)
def test_ids_that_disagree(
    files: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    with pytest.raises(SegmentIdError, match=said):
        PanopticFiles(changed(files, change)).read(7)


def test_unknown_categories_and_images(files: Path) -> None:
    with pytest.raises(MissingImageError, match=r"panoptic\.json' has none of image 8"):
        PanopticFiles(files).read(8)
    changed(files, lambda c: c["annotations"][0]["segments_info"][3].update(category_id=7002))
    with pytest.raises(UnknownCategoryError, match="segment 70000 of image 7 is of category 7002"):
        PanopticFiles(files)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("annotations"), "'annotations' must be a list, got NoneType"),
        (lambda c: c.update(images={}), "'images' must be a list, got dict"),
        (lambda c: c["annotations"].append(3), "'image_id' of an entry must be"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "image 7 has two annotations"),
        (lambda c: c["annotations"][0].pop("segments_info"), "'segments_info' must be a list"),
        (
            lambda c: c["annotations"][0].update(file_name="../../a.png"),
            "file_name must be without a folder",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(id="1"),
            "'id' of an entry must be",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(caption=3),
            "caption of segment 1 of image 7 must be text",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(score="0.5"),
            "score of segment 1 of image 7 must be a number or null, got '0.5'",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(score=float("inf")),
            "score of segment 1 of image 7 must be a number or null, got inf",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(iscrowd="no"),
            "iscrowd of segment 1 of image 7 must be 0 or 1, got 'no'",
        ),
        (
            lambda c: c["images"][0].update(height="30"),
            "height of image 7 must be an integer above 0, got '30'",
        ),
        (
            lambda c: c["images"][0].update(width=0),
            "width of image 7 must be an integer above 0, got 0",
        ),
        (
            lambda c: c["images"][0].update(file_name=3),
            "file_name of image 7 must be text, got 3",
        ),
        (
            lambda c: c["categories"].append({"id": 3, "name": " ", "isthing": 1}),
            "category: the name of 3 is blank",
        ),
    ],
)
def test_json_of_another_form(
    files: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    with pytest.raises(ValueError, match=f"annotations: .*panoptic.json': {said}"):
        PanopticFiles(changed(files, change))


def test_files_that_cannot_be_read(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"annotations: .*none\.json': no such file"):
        PanopticFiles(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"annotations: .*broken\.json': not valid JSON"):
        PanopticFiles(tmp_path / "broken.json")
    png = files.with_suffix("") / "a.png"
    read = PanopticFiles(files).read
    png.write_bytes(png.read_bytes()[:90])
    with pytest.raises(ValueError, match=r"annotations: .*a.png'.* damaged"):
        read(7)
    Image.new("L", SIZE[::-1]).save(png)
    with pytest.raises(ValueError, match=r"a\.png' must be an RGB PNG, got L"):
        read(7)
    Image.new("RGB", SIZE).save(png)
    with pytest.raises(ValueError, match=r"a.png' must have size \(30, 70\)"):
        read(7)
    monkeypatch.setenv("FASTREGION_MAX_PIXELS", "100")
    with pytest.raises(ValueError, match="more than the limit of 100"):
        read(7)
    png.unlink()
    with pytest.raises(FileNotFoundError, match="annotations: no such file"):
        read(7)
    monkeypatch.setattr(coco_panoptic, "_MAX_JSON_BYTES", 1 << 4)
    with pytest.raises(ValueError, match="is larger than"):
        PanopticFiles(files)


def test_segments_that_make_no_map(tmp_path: Path) -> None:
    dog, sky = COCO_PANOPTIC[16], COCO_PANOPTIC[119]
    with pytest.raises(ValueError, match="segment 2 of image 1: overlaps segment 1"):
        PanopticImage(1, "a.jpg", SIZE, boxes((1, dog, (0, 0, 5, 5)), (2, sky, (4, 4, 9, 9))))
    with pytest.raises(SegmentIdError, match="segment 0 of image 1: the id must be an integer"):
        PanopticImage(1, "a.jpg", SIZE, boxes((0, dog, (0, 0, 5, 5))))
    with pytest.raises(SegmentIdError, match="segment 2 of image 1: the id comes twice"):
        PanopticImage(1, "a.jpg", SIZE, boxes((2, dog, (0, 0, 5, 5)), (2, sky, (6, 6, 9, 9))))
    with pytest.raises(ValueError, match=r"must have size \(30, 71\), got \(30, 70\)"):
        PanopticImage(1, "a.jpg", (30, 71), boxes((2, dog, (0, 0, 5, 5))))
    empty = Segment.of(Region.from_mask(np.zeros(SIZE, bool)), id=3, category=dog)
    with pytest.raises(ValueError, match="segment 3 of image 1: has no pixel"):
        PanopticImage(1, "a.jpg", SIZE, (empty,))
    one = PanopticImage(1, "a.jpg", SIZE, boxes((2, dog, (0, 0, 5, 5))))
    other = PanopticImage(2, "b.jpg", SIZE, boxes((2, Category(18, "cat", True), (0, 0, 5, 5))))
    with pytest.raises(ValueError, match="two categories have the id 18: 'dog' and 'cat'"):
        write_panoptic(tmp_path / "out.json", [one, other])
    with pytest.raises(ValueError, match=r"images: 1 .* comes twice"):
        write_panoptic(tmp_path / "out.json", [one, one])
    assert not (tmp_path / "out.json").exists()
    with pytest.raises(NotADirectoryError, match="annotations: no such folder"):
        write_panoptic(tmp_path / "nowhere" / "out.json", [one])


def test_files_appear_whole_or_not_at_all(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    first, second = two_images()
    other = PanopticImage(7, "a.jpg", SIZE, boxes((3, COCO_PANOPTIC[0], (0, 0, 5, 5))))

    def torn(self: Image.Image, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", torn)
        with pytest.raises(OSError, match="no space left"):
            write_panoptic(files, [other, second])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before
    assert PanopticFiles(files).read(7).segments == first.segments
