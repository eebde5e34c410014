from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_data import WIDTH, write_picture

from fastregion.evaluation.benchmarks.base import Prediction
from fastregion.evaluation.benchmarks.pix2cap_coco import Pix2CapCoco, panoptic_pairs
from fastregion.models.categories import COCO_PANOPTIC
from fastregion.models.coco_panoptic import PanopticImage, write_panoptic
from fastregion.models.segment import Segment
from fastregion.regions import Region

THING, STUFF = COCO_PANOPTIC[0], COCO_PANOPTIC[-1]


def image(number: int, caption: str) -> PanopticImage:
    upper, lower = np.zeros((60, WIDTH), bool), np.zeros((60, WIDTH), bool)
    upper[: 10 * number], lower[40:] = True, True
    segments = (
        Segment.of(Region.from_mask(upper), id=1, category=THING, caption=caption, score=0.5),
        Segment.of(Region.from_mask(lower), id=7, category=STUFF),
    )
    return PanopticImage(number, f"{number:012}.jpg", (60, WIDTH), segments)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = [image(number, "a tall man") for number in (2, 1)]
    write_panoptic(tmp_path / "pix2cap_coco_val.json", images, tmp_path / "panoptic_val2017")
    for number in (1, 2):
        write_picture(tmp_path / "val2017" / f"{number:012}.jpg")
    return tmp_path


class Segmenter:
    model_id, model_type = "m", "pix2cap"

    def segment(self, picture: str) -> list[Segment]:
        return list(image(int(Path(picture).stem), "a man").segments)


class Other:
    model_id, model_type = "m", "dam"


def test_items_are_pictures(data: Path) -> None:
    items = Pix2CapCoco().items(data)
    assert [(item.id, item.image) for item in items] == [
        ("2", "val2017/000000000002.jpg"),
        ("1", "val2017/000000000001.jpg"),
    ]


def test_predictions_become_segments_again(data: Path) -> None:
    benchmark = Pix2CapCoco()
    items = benchmark.items(data)
    predictions = {}
    for item in items:
        picture, query = benchmark.picture(item, data), benchmark.query(item, "pix2cap")
        (answered,) = benchmark.predict(Segmenter(), picture, [item], query)  # type: ignore[arg-type]
        stored: dict[str, Any] = json.loads(json.dumps(answered.extra))
        predictions[item.id] = Prediction(item=item.id, text=answered.text, extra=stored)
    for item, (truth, found) in zip(items, panoptic_pairs(items, predictions), strict=True):
        assert [segment.caption for segment in truth.segments] == ["a tall man", ""]
        assert found.segments == image(int(item.id), "a man").segments


def test_records_are_read_from_json_and_pngs(data: Path, tmp_path: Path) -> None:
    record = tmp_path / "model.json"
    write_panoptic(record, [image(1, "a short man")])
    ((prediction,), answers) = Pix2CapCoco().recorded(data, record)
    assert (prediction.item, prediction.model, answers) == ("1", "model", {})
    item = Pix2CapCoco().items(data)[1]
    ((_, found),) = panoptic_pairs([item], {"1": prediction})
    assert found.segments == image(1, "a short man").segments


def test_areas_of_annotations_are_those_that_the_file_states(data: Path, tmp_path: Path) -> None:
    """As in the published code; here twice the pixels, so that no IoU is above 0.5."""
    record = tmp_path / "model.json"
    write_panoptic(record, [image(number, "a short man") for number in (1, 2)])
    benchmark = Pix2CapCoco()
    predictions = {one.item: one for one in benchmark.recorded(data, record)[0]}
    assert benchmark.score(benchmark.items(data), predictions, {}).table["PQ"] == 100
    annotations = data / "pix2cap_coco_val.json"
    content = json.loads(annotations.read_text(encoding="utf-8"))
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["area"] *= 2
    annotations.write_text(json.dumps(content), encoding="utf-8")
    assert benchmark.score(benchmark.items(data), predictions, {}).table["PQ"] == 0
    (first, _) = items = benchmark.items(data)
    assert benchmark.score(items[:1], {first.id: predictions[first.id]}, {}).table["RQ"] == 0


def test_a_model_that_finds_no_regions(data: Path) -> None:
    item = Pix2CapCoco().items(data)[0]
    query = Pix2CapCoco().query(item, "dam")
    with pytest.raises(NotImplementedError, match="model: m finds no regions"):
        Pix2CapCoco().predict(Other(), "p.jpg", [item], query)  # type: ignore[arg-type]
