"""Who finds the segments, and who describes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastregion.models.base import Captioner
from fastregion.models.categories import COCO_PANOPTIC, UNNAMED
from fastregion.models.segment import Segment
from fastregion.models.segmentation import segment_image
from fastregion.regions import Region

IMAGE = np.zeros((20, 30, 3), np.uint8)


class Describes(Captioner):
    """Says how large a region is."""

    model_type = "describes"

    def __init__(self) -> None:
        self.model_id = "describes"

    def describe(self, image: Any, regions: Any, *_: Any, **__: Any) -> Any:
        return [f"{region.area} pixels" for region in regions]

    def _missing(self, *args: Any) -> Any:
        raise AssertionError("no model is run here")

    build_model = process = encode = append_text = _missing
    decoder = eos_token_ids = property(_missing)


class Segments(Describes):
    """Finds one segment."""

    def segment(self, image: Any) -> list[Segment]:
        region = Region.from_box((0, 0, 3, 3), image.shape[:2])
        return [Segment.of(region, id=1, category=COCO_PANOPTIC[0], caption="Someone.", score=0.9)]


def halves(image: np.ndarray) -> list[Region]:
    return [Region.from_box((x, 0, x + 15, 20), image.shape[:2]) for x in (0, 15)]


def test_a_segmenter_does_all_of_it() -> None:
    found = segment_image(Segments(), IMAGE, propose=halves, proposer="halves")
    assert (found.found_by, found.described_by) == ("describes", "describes")
    assert [segment.category.name for segment in found.segments] == ["person"]


def test_others_describe_what_is_proposed() -> None:
    found = segment_image(Describes(), IMAGE, propose=halves, proposer="halves")
    assert (found.found_by, found.described_by) == ("halves", "describes")
    assert [(s.id, s.category, s.caption, s.score) for s in found.segments] == [
        (1, UNNAMED, "300 pixels", None),
        (2, UNNAMED, "300 pixels", None),
    ]
    assert found.to_dict()["found_by"] == "halves"


def test_nobody_finds_segments() -> None:
    with pytest.raises(
        NotImplementedError, match="model: describes describes given regions and finds none"
    ):
        segment_image(Describes(), IMAGE)
