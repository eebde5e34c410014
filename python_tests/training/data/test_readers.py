"""Every format of rows, written by the tests and read back as records."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_rows
from PIL import Image

from fastregion.models import coco_panoptic
from fastregion.models.categories import COCO_PANOPTIC
from fastregion.models.segment import Segment
from fastregion.regions import Region, rle_encode
from fastregion.training.data import (
    BadRow,
    DataSource,
    Record,
    Records,
    Turn,
    open_source,
    open_sources,
)


def opened(folder: Path, **source: Any) -> Records:
    return open_source(DataSource(**source), folder)


def check(record: Record, *numbers: int, seed: int = 0) -> None:
    """A record of the picture ``seed`` with the masks ``numbers``."""
    assert np.array_equal(record.image(), tiny_rows.pixels(seed))
    assert record.size is not None
    assert record.size() == tiny_rows.SIZE
    assert record.num_regions == len(numbers)
    masks = [region.mask for region in record.regions()]
    assert len(masks) == len(numbers)
    for found, number in zip(masks, numbers, strict=True):
        assert np.array_equal(found, tiny_rows.mask(number))


POLYGON = [3, 2, 11, 2, 11, 12, 3, 12]
MASKS: dict[str, Any] = {
    "path": "m.png",
    "rle": tiny_rows.rle(),
    "run lengths": {"size": [30, 40], "counts": [92, *[10, 20] * 7, 10, 888]},
    "box": [3, 2, 11, 12],
    "polygon": POLYGON,
    "points": [[3, 2], [11, 2], [11, 12], [3, 12]],
    "polygons": [POLYGON, [4, 3, 8, 3, 8, 9]],
    "annotation": {"segmentation": [POLYGON], "id": 7},
    "sam": {"segmentation": tiny_rows.rle(), "predicted_iou": 0.9},
    "bbox": {"bbox": [3, 2, 8, 10]},
    "base64": tiny_rows.encoded(tiny_rows.mask().astype(np.uint8) * 255),
}


@pytest.mark.parametrize("kind", MASKS)
def test_jsonl_masks(tmp_path: Path, kind: str) -> None:
    tiny_rows.write_picture(tmp_path / "a.png")
    tiny_rows.write_mask(tmp_path / "m.png")
    row = {"image": "a.png", "mask": MASKS[kind], "caption": "A cup."}
    tiny_rows.write_lines(tmp_path / "rows.jsonl", [row])
    (record,) = opened(tmp_path, format="jsonl", path="rows.jsonl")
    check(record, 0)
    assert record.captions == (("A cup.",),)
    assert record.turns == ()


def test_jsonl_rows(tmp_path: Path) -> None:
    tiny_rows.write_picture(tmp_path / "pictures/a.png", 5)
    (tmp_path / "masks").mkdir()
    tiny_rows.write_mask(tmp_path / "masks/m1.png", 1)
    talk = tiny_rows.dialogue("A cup.", "A pen.")
    rows: list[Any] = [
        {"image": "a.png", "mask": "m1.png", "caption": ["A cup.", "One cup."], "id": 4},
        "",
        {
            "image": "a.png",
            "masks": [tiny_rows.rle(2), "m1.png"],
            "captions": [["A", "B"], "C"],
            "category_ids": [1, 92],
            "class_names": ["person", "banner"],
        },
        {"image": "a.png", "masks": [tiny_rows.rle(2)], "conversations": talk, "more": None},
        {"image": "a.png", "conversations": [{"from": "system", "value": "Be short."}, *talk]},
    ]
    tiny_rows.write_lines(tmp_path / "rows.jsonl", rows)
    source = {"format": "jsonl", "path": "rows.jsonl", "images": "pictures", "masks": "masks"}
    records = opened(tmp_path, **source)
    assert len(records) == 4
    assert records.name(1) == "rows.jsonl, line 3"
    for record, numbers in zip(records, ((1,), (2, 1), (2,), ()), strict=True):
        check(record, *numbers, seed=5)
    first, second, third, fourth = records
    assert (first.id, second.id) == ("4", "row 1")
    assert first.captions == (("A cup.", "One cup."),)
    assert second.captions == (("A", "B"), ("C",))
    assert second.category_ids == (1, 92)
    assert second.class_names == ("person", "banner")
    assert third.turns[1] == Turn(speaker="gpt", text="A cup.")
    assert fourth.turns[0] == Turn(speaker="system", text="Be short.")
    with pytest.raises(IndexError):
        records[4]


def test_json_list_and_columns(tmp_path: Path) -> None:
    tiny_rows.write_picture(tmp_path / "a.png")
    rows = [{"file": "a.png", "where": tiny_rows.rle(), "text": "A cup.", "caption": "no"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    columns = {"image": "file", "mask": "where", "caption": "text"}
    (record,) = opened(tmp_path, format="jsonl", path="rows.json", columns=columns)
    check(record, 0)
    assert record.captions == (("A cup.",),)
    (missing,) = (opened(tmp_path, format="dam", path="rows.json", columns={"mask": "here"}),)
    with pytest.raises(BadRow, match="mask: the row has no column 'here', it has file, where"):
        missing[0]


def test_dam_rows(tmp_path: Path) -> None:
    tiny_rows.write_picture(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "mask_rle": tiny_rows.rle(1), "caption": "A.", "class_name": "cup"},
        {"image": "a.png", "mask_rle": [tiny_rows.rle(1), tiny_rows.rle()], "captions": ["A", "B"]},
    ]
    tiny_rows.write_lines(tmp_path / "rows.jsonl", rows)
    one, two = opened(tmp_path, format="dam", path="rows.jsonl")
    check(one, 1)
    assert one.class_names == ("cup",)
    check(two, 1, 0)


def test_pictures_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = Image.fromarray(tiny_rows.pixels())
    for suffix in ("png", "jpg", "webp", "tif"):
        turned.save(tmp_path / f"a.{suffix}", exif=exif)
        row = {"image": f"a.{suffix}", "mask": [0, 0, 30, 40], "caption": "A."}
        tiny_rows.write_lines(tmp_path / "rows.jsonl", [row])
        (record,) = opened(tmp_path, format="jsonl", path="rows.jsonl")
        assert record.size is not None
        assert record.size() == record.image().shape[:2] == (40, 30)
        assert record.regions()[0].area == 1200


# ---- GAR -----------------------------------------------------------------------------------------

GAR_ROWS = [
    {
        "image": tiny_rows.encoded(tiny_rows.pixels(1)),
        "conversations": tiny_rows.dialogue("A cup.", "A pen."),
        "mask_rle": [tiny_rows.rle(1), tiny_rows.rle(3)],
    },
    {"image": "a.png", "conversations": tiny_rows.dialogue("A"), "mask_rle": tiny_rows.rle(2)},
    {"image": "a.png", "conversations": tiny_rows.dialogue("A"), "mask_rle": None},
]


def check_gar(records: Records) -> None:
    first, second, third = records
    check(first, 1, 3, seed=1)
    assert [turn.text for turn in first.turns] == ["What is it?", "A cup."] * 1 + [
        "What is it?",
        "A pen.",
    ]
    assert first.captions == ()
    check(second, 2)
    check(third)


def test_gar_list(tmp_path: Path) -> None:
    tiny_rows.write_picture(tmp_path / "a.png")
    (tmp_path / "rows.json").write_text(json.dumps(GAR_ROWS))
    check_gar(opened(tmp_path, format="gar", path="rows.json"))


def test_gar_arrow_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    tiny_rows.write_picture(tmp_path / "a.png")
    rows = [{**row, "mask_rle": row["mask_rle"]} for row in GAR_ROWS]
    rows[1]["mask_rle"] = [rows[1]["mask_rle"]]  # one type in a column
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    check_gar(opened(tmp_path, format="gar", path="saved", images="."))


def test_gar_decoded_pictures(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            "image": Image.fromarray(tiny_rows.pixels(seed)),
            "conversations": tiny_rows.dialogue("A cup."),
            "mask_rle": tiny_rows.rle(seed),
        }
        for seed in (0, 1)
    ]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "conversations": datasets.List(
                {"from": datasets.Value("string"), "value": datasets.Value("string")}
            ),
            "mask_rle": {
                "size": datasets.List(datasets.Value("int64")),
                "counts": datasets.Value("binary"),
            },
        }
    )
    for row in rows:
        row["mask_rle"] = {**row["mask_rle"], "counts": row["mask_rle"]["counts"].encode()}
    data = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": data, "val": data.select([1])}).save_to_disk(tmp_path / "both")
    records = opened(tmp_path, format="gar", path="both")
    assert len(records) == 2
    for seed, record in enumerate(records):
        check(record, seed, seed=seed)
    (only,) = opened(tmp_path, format="gar", path="both", split="val")
    check(only, 1, seed=1)
    with pytest.raises(ValueError, match="has the splits train, val, got split 'test'"):
        opened(tmp_path, format="gar", path="both", split="test")


def test_gar_refuses(tmp_path: Path) -> None:
    Image.new("RGB", (9, 40)).save(tmp_path / "narrow.png")
    talk = tiny_rows.dialogue("A")
    rows: list[Any] = [
        {"image": "narrow.png", "conversations": talk},
        {"image": "narrow.png"},
        {"image": "narrow.png", "conversations": talk, "mask_rle": [3]},
        {"image": "data:base64,!!", "conversations": talk},
        5,
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    records = opened(tmp_path, format="gar", path="rows.json")
    with pytest.raises(BadRow, match=r"must be at least 10 pixels wide and high, got \(40, 9\)"):
        records[0].image()
    with pytest.raises(BadRow, match="conversations: is missing"):
        records[1]
    with pytest.raises(BadRow, match="mask_rle: expected COCO RLEs, got int"):
        records[2]
    with pytest.raises(BadRow, match="is not base64") as caught:
        records[3].image()
    assert caught.value.kind == "unreadable picture"
    with pytest.raises(BadRow, match="expected a JSON object, got int"):
        records[4]


# ---- HF datasets and webdataset shards -----------------------------------------------------------


def test_hf_dataset_with_a_mask_column(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            "picture": Image.fromarray(tiny_rows.pixels(seed)),
            "mask": Image.fromarray(tiny_rows.mask(seed)),
            "text": f"A cup {seed}.",
        }
        for seed in (0, 1)
    ]
    data = datasets.Dataset.from_list(rows)
    assert isinstance(data.features["mask"], datasets.Image)
    data.save_to_disk(tmp_path / "saved")
    columns = {"image": "picture", "caption": "text"}
    for kind in ("hf", "dam"):
        records = opened(tmp_path, format=kind, path="saved", columns=columns)
        assert records.name(1) == "saved, row 1"
        for seed, record in enumerate(records):
            check(record, seed, seed=seed)
            assert record.captions == ((f"A cup {seed}.",),)
    with pytest.raises(ValueError, match="has no splits, got split 'val'"):
        opened(tmp_path, format="hf", path="saved", split="val")
    with pytest.raises(ValueError, match="is no folder that datasets have saved"):
        opened(tmp_path, format="hf", path=".")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        opened(tmp_path, format="hf", path="a/b/c")


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "saved").mkdir()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "fastregion\[train\]"'):
        opened(tmp_path, format="hf", path="saved")


def write_shard(file: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(file, mode) as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


def test_webdataset_shards(tmp_path: Path) -> None:
    grey = tiny_rows.mask(2).astype(np.uint8) * 255
    jpeg = io.BytesIO()
    Image.fromarray(tiny_rows.pixels(1)).save(jpeg, format="JPEG", quality=100)
    write_shard(
        tmp_path / "b.tar",
        {
            "x/c.jpg": jpeg.getvalue(),
            "x/c.png": tiny_rows.png(grey),
            "x/c.txt": "A pen \u00e9.".encode(),
            "x/c.pkl": b"never read",
        },
    )
    about = {"caption": "A cup.", "mask": tiny_rows.rle(1), "id": "seven"}
    write_shard(
        tmp_path / "a.tar",
        {
            "a.png": tiny_rows.png(tiny_rows.pixels(4)),
            "a.json": json.dumps(about).encode(),
            "b.png": tiny_rows.png(tiny_rows.pixels(5)),
            "b.mask.png": tiny_rows.png(grey),
            "b.json": json.dumps({"caption": "A bowl."}).encode(),
        },
    )
    for kind in ("webdataset", "dam"):
        a, b, c = opened(tmp_path, format=kind, path=".")
        check(a, 1, seed=4)
        check(b, 2, seed=5)
        assert [record.id for record in (a, b, c)] == ["seven", "b", "x/c"]
        assert [record.captions[0][0] for record in (a, b, c)] == [
            "A cup.",
            "A bowl.",
            "A pen \u00e9.",
        ]
        assert c.image().shape == (30, 40, 3)
        assert np.array_equal(c.regions()[0].mask, tiny_rows.mask(2))
    records = opened(tmp_path, format="webdataset", path="b.tar", columns={"caption": "txt"})
    assert records.name(0) == "b.tar, x/c"


def test_webdataset_refuses(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a \.tar, or a folder of them"):
        opened(tmp_path, format="webdataset", path=".")
    write_shard(tmp_path / "c.tar", {"a.txt": b"a"}, "w:gz")
    with pytest.raises(ValueError, match="is no plain tar file"):
        opened(tmp_path, format="webdataset", path="c.tar")
    write_shard(tmp_path / "d.tar", {"a.png": bytes(2000)})
    (tmp_path / "d.tar").write_bytes((tmp_path / "d.tar").read_bytes()[:1200])
    with pytest.raises(ValueError, match=r"d\.tar'"):
        opened(tmp_path, format="webdataset", path="d.tar")


# ---- URECA ---------------------------------------------------------------------------------------


def ureca_row(number: int, image: str = "sa_1", mask_id: Any = "7") -> dict[str, Any]:
    talk = [
        {"from": "human", "value": "<image>\n<mask>\nDescribe this region."},
        {"from": "gpt", "value": f"A cup {number}."},
    ]
    return {"id": number, "image": image, "mask_id": mask_id, "conversations": talk}


@pytest.fixture
def ureca(tmp_path: Path) -> Path:
    Image.fromarray(tiny_rows.pixels()).save(tmp_path / "sa.png")
    (tmp_path / "images").mkdir()
    for name in ("sa_1.jpg", "sa_2"):  # with the suffix left out in the rows, and with none
        (tmp_path / "images" / name).write_bytes((tmp_path / "sa.png").read_bytes())
    (tmp_path / "masks").mkdir()
    for name in ("sa_1", "sa_2"):
        found = [
            {"id": 7, "segmentation": tiny_rows.rle(1), "area": 80},
            {"id": 8, "segmentation": tiny_rows.rle(2)},
            {"id": 9, "segmentation": tiny_rows.rle(3)},
            {"id": 9, "segmentation": tiny_rows.rle(3)},
        ]
        (tmp_path / f"masks/{name}.json").write_text(json.dumps({"annotations": found}))
    rows = [ureca_row(0), ureca_row(1, "sa_2", 8), ureca_row(2, mask_id="9"), ureca_row(3, "sa_3")]
    tiny_rows.write_lines(tmp_path / "rows.jsonl", rows)
    entry = {"root": "images", "mask": "masks", "annotation": "rows.jsonl"}
    meta = {
        "main": {**entry, "data_augment": True, "repeat_time": 2, "max_dynamic_patch": 4},
        "part": {**entry, "repeat_time": 0.5},
        "test_set": entry,
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    return tmp_path


def test_ureca_rows(ureca: Path) -> None:
    records = opened(ureca, format="ureca", path="meta.json")
    assert len(records) == 4 + 2
    assert records.repeats.tolist() == [2, 2, 2, 2, 1, 1]
    first, second = records[0], records[1]
    check(first, 1)
    check(second, 2)
    assert (first.id, records[4].id) == ("main/0", "part/0")
    assert first.turns[0].text.startswith("<image>\n<mask>\n")
    assert (first.jpeg_augmentation, first.max_tiles) == (True, 4)
    assert (records[5].jpeg_augmentation, records[5].max_tiles) == (False, None)
    assert records.name(5) == "part: rows.jsonl, line 2"
    with pytest.raises(BadRow, match="expected one annotation with the id 9, got 2"):
        records[2].regions()
    with pytest.raises(BadRow, match=r"no such file: .*sa_3\.jpg'") as caught:
        records[3].image()
    assert caught.value.kind == "missing file"
    assert len(opened(ureca, format="ureca", path="meta.json", split="test")) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeat_time": 1.5}, "repeat_time must be an integer, or a number between 0 and 1"),
        ({"repeat_time": 0}, "repeat_time must be"),
        ({"root": 3}, "main: root must be a path, got 3"),
        ({"mask": "nowhere"}, "main: mask: no such folder"),
        ({"annotation": "nowhere"}, "no such file"),
        ({"data_augment": "yes"}, "data_augment must be true or false, got 'yes'"),
        ({"max_dynamic_patch": 0}, "max_dynamic_patch must be a positive integer, got 0"),
    ],
)
def test_ureca_settings(ureca: Path, change: dict[str, Any], message: str) -> None:
    meta = json.loads((ureca / "meta.json").read_text())
    meta["main"].update(change)
    (ureca / "meta.json").write_text(json.dumps(meta))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        opened(ureca, format="ureca", path="meta.json")


def test_ureca_refuses(ureca: Path) -> None:
    with pytest.raises(ValueError, match="split: expected 'train' or 'test', got 'val'"):
        opened(ureca, format="ureca", path="meta.json", split="val")
    (ureca / "meta.json").write_text("{}")
    with pytest.raises(ValueError, match="has no data set for the split 'train'"):
        opened(ureca, format="ureca", path="meta.json")
    bad = [{**ureca_row(0), key: value} for key, value in (("id", "a"), ("image", 1))]
    bad += [ureca_row(0, mask_id="x"), {**ureca_row(1), "conversations": []}]
    tiny_rows.write_lines(ureca / "rows.jsonl", bad)
    entry = {"root": "images", "mask": "masks", "annotation": "rows.jsonl"}
    (ureca / "meta.json").write_text(json.dumps({"main": entry}))
    records = opened(ureca, format="ureca", path="meta.json")
    for row, message in enumerate(("id: is missing or", "image: is", "mask_id: exp", "convers")):
        with pytest.raises(BadRow, match=message):
            records[row]


# ---- Pix2Cap-COCO --------------------------------------------------------------------------------


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


def test_pix2cap_rows(pix2cap: Path) -> None:
    source = {"format": "pix2cap", "path": "train.json", "images": "pictures"}
    records = opened(pix2cap, **source)
    assert len(records) == 3  # one image has a description of two characters
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
        opened(pix2cap, **{**source, "images": "nowhere"})


def test_pix2cap_needs_descriptions(pix2cap: Path) -> None:
    content = json.loads((pix2cap / "train.json").read_text())
    for annotation in content["annotations"]:
        annotation["segments_info"][0]["description"] = "ox"
    (pix2cap / "train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="every image has a segment whose description is shorter"):
        opened(pix2cap, format="pix2cap", path="train.json", images="pictures")


# ---- several sources -----------------------------------------------------------------------------


def test_sources_side_by_side(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 2)):
        tiny_rows.write_picture(tmp_path / "x.png")
        rows = [
            {"image": "x.png", "mask": [0, 0, 5, 5], "caption": f"{name}{k}", "id": k}
            for k in range(count)
        ]
        tiny_rows.write_lines(tmp_path / f"{name}.jsonl", rows)
    a, b = (
        DataSource(format="jsonl", path=f"{n}.jsonl", repeat=r) for n, r in (("a", 2), ("b", 0.5))
    )
    both = open_sources([a, b], tmp_path)
    assert len(both) == 5
    assert [record.captions[0][0] for record in both] == ["a0", "a1", "a2", "b0", "b1"]
    assert [record.id for record in both] == ["0/0", "0/1", "0/2", "1/0", "1/1"]
    assert both.repeats.tolist() == [2, 2, 2, 0.5, 0.5]
    assert both.name(3) == "b.jsonl, line 1"
    assert open_sources([b], tmp_path)[1].id == "1"
    with pytest.raises(ValueError, match="expected at least one source"):
        open_sources([], tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "csv"}, "format: expected one of gar, dam, .*, got 'csv'"),
        ({"path": ""}, "path: expected a file or a folder, got ''"),
        ({"repeat": 0}, "repeat: expected a positive number, got 0"),
        ({"repeat": float("nan")}, "repeat: expected a positive number"),
        ({"split": "train"}, "split: is not used by the format 'jsonl'"),
        ({"columns": {"picture": "x"}}, "columns: expected names of columns for image"),
        ({"format": "pix2cap"}, "images: is needed for pix2cap"),
        ({"format": "ureca", "masks": "m"}, "masks: is not used by the format 'ureca'"),
    ],
)
def test_a_source_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSource(**{"format": "jsonl", "path": "x", **values})


def test_rle_fixture_is_what_it_says() -> None:
    assert dict(rle_encode(tiny_rows.mask())) == tiny_rows.rle()
