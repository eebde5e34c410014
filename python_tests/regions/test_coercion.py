"""as_regions: everything a user may hold, and everything it must refuse."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from fastregion.regions import Region, as_region, as_regions, rle_encode, rle_uncompress

SIZE = (48, 64)
BOX = (5, 10, 40, 30)


def example_mask() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[10:30, 5:40] = True
    return mask


@dataclass
class Detections:
    """What supervision.Detections looks like from outside."""

    xyxy: np.ndarray
    mask: np.ndarray | None = None
    confidence: np.ndarray | None = None
    class_id: np.ndarray | None = None
    tracker_id: np.ndarray | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.xyxy)


ACCEPTED = {
    "Region": lambda m: Region.from_mask(m),
    "unbound Region": lambda m: Region.from_box(BOX),
    "bool array": lambda m: m,
    "float array": lambda m: m.astype(np.float32),
    "tensor": torch.from_numpy,
    "stack": lambda m: m[None],
    "stack with channel": lambda m: m[None, None],
    "channel": lambda m: m[..., None],
    "PIL image": Image.fromarray,
    "box tuple": lambda m: BOX,
    "box list": lambda m: list(BOX),
    "box of NumPy numbers": lambda m: tuple(np.array(BOX, np.float32)),
    "box array": lambda m: np.array(BOX, float),
    "box tensor": lambda m: torch.tensor(BOX),
    "boxes": lambda m: np.array([BOX]),
    "list of boxes": lambda m: [BOX],
    "RLE": rle_encode,
    "RLE bytes": lambda m: {"size": list(SIZE), "counts": rle_encode(m)["counts"].encode()},
    "RLE list": lambda m: rle_uncompress(rle_encode(m)),
    "COCO polygon": lambda m: {"segmentation": [[5, 10, 40, 10, 40, 30, 5, 30]], "area": 700},
    "COCO RLE": lambda m: {"segmentation": rle_encode(m), "bbox": [0, 0, 1, 1]},
    "COCO box": lambda m: {"bbox": [5, 10, 35, 20], "category_id": 1},
    "SAM mask": lambda m: {"segmentation": m, "bbox": [5, 10, 34, 19], "predicted_iou": 0.9},
    "SAM RLE": lambda m: {"segmentation": rle_encode(m), "stability_score": 0.9},
    "detections with masks": lambda m: Detections(np.zeros((1, 4)), m[None]),
    "detections with boxes": lambda m: Detections(np.array([BOX], np.float32)),
}


@pytest.mark.parametrize("form", ACCEPTED)
def test_every_form_of_a_region_is_the_same_region(form: str) -> None:
    regions = as_regions(ACCEPTED[form](example_mask()), SIZE)
    assert len(regions) == 1
    np.testing.assert_array_equal(regions[0].mask, example_mask())
    assert regions[0].size == SIZE
    assert as_region(ACCEPTED[form](example_mask()), SIZE) == regions[0]


def test_a_path_is_a_mask(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(example_mask()).save(path)
    for source in (path, str(path)):
        np.testing.assert_array_equal(as_region(source, SIZE).mask, example_mask())


def test_lists_mix_everything_in_order() -> None:
    things = [make(example_mask()) for name, make in ACCEPTED.items() if name != "list of boxes"]
    regions = as_regions([*things, (2, 3), np.stack([example_mask()] * 2)], SIZE)
    assert len(regions) == len(things) + 3
    expected = Region.from_points((2, 3), SIZE)
    np.testing.assert_array_equal(regions[len(things)].mask, expected.mask)


def test_points_stacks_and_arrays_of_boxes() -> None:
    assert as_regions((7, 3), SIZE) == [Region.from_points((7, 3), SIZE)]
    assert as_regions([(7, 3), (9, 4)], SIZE) == as_regions(np.array([[7, 3], [9, 4]]), SIZE)
    boxes = np.array([[0, 0, 1, 1], [2, 2, 5, 5]])
    assert [region.box for region in as_regions(boxes, SIZE)] == [(0, 0, 1, 1), (2, 2, 5, 5)]
    stack = np.stack([example_mask(), ~example_mask()])
    for many in (stack, stack[:, None], torch.from_numpy(stack), list(stack)):
        masks = [region.mask for region in as_regions(many, SIZE)]
        np.testing.assert_array_equal(masks, stack)


def test_an_array_of_the_image_shape_is_a_mask_even_if_it_could_be_boxes() -> None:
    array = np.array([[0, 0, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(as_region(array, (2, 4)).mask, array != 0)
    assert len(as_regions(np.array([[0, 0, 1, 1], [1, 1, 2, 2]]), SIZE)) == 2


def test_detections_carry_names_scores_and_ids() -> None:
    detections = Detections(
        np.array([[0, 0, 4, 4], BOX], np.float32),
        confidence=np.array([0.5, 0.75], np.float32),
        tracker_id=np.array([8, 9]),
        data={"class_name": np.array(["cat", "dog"])},
    )
    regions = as_regions(detections, SIZE)
    assert [region.label for region in regions] == ["cat", "dog"]
    assert [region.score for region in regions] == [0.5, 0.75]
    assert [region.id for region in regions] == [8, 9]
    assert type(regions[0].id) is int


@given(
    box=st.tuples(
        st.integers(0, 63), st.integers(0, 47), st.integers(1, 64), st.integers(1, 48)
    ).filter(lambda box: box[0] < box[2] and box[1] < box[3]),
    form=st.sampled_from([tuple, list, np.array, torch.tensor, Region.from_box]),
)
def test_any_box_inside_is_that_box(box, form) -> None:
    region = as_region(form(box), SIZE)
    assert region.box == box
    assert region.area == (box[2] - box[0]) * (box[3] - box[1])


NUMBERS = st.one_of(st.integers(-(10**20), 10**20), st.floats(), st.booleans(), st.none())
ANYTHING = st.recursive(
    st.one_of(
        NUMBERS,
        st.text(max_size=5),
        st.binary(max_size=5),
        st.builds(lambda shape: np.zeros(shape), st.lists(st.integers(0, 5), max_size=4)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.tuples(inner, inner),
        st.dictionaries(
            st.sampled_from(["counts", "size", "segmentation", "bbox", "predicted_iou", "x"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(thing=ANYTHING)
@example(thing={"segmentation": 0})
@example(thing={"bbox": 0})
def test_anything_is_either_regions_of_the_image_or_a_clear_error(thing) -> None:
    try:
        regions = as_regions(thing, SIZE)
    except (TypeError, ValueError, FileNotFoundError) as error:
        names = "(regions|region|mask|box|bbox|point|polygon|rle|annotation|record)"
        assert re.match(rf"{names}(\[\d+\])?: ", str(error))  # noqa: PT017
        return
    assert regions
    assert all(region.size == SIZE and region.area > 0 for region in regions)


REFUSED = [
    (None, TypeError, "region: cannot use a value of type NoneType; accepted: a Region; a mask"),
    (7, TypeError, "region: cannot use a value of type int; accepted"),
    (b"mask", TypeError, "region: cannot use a value of type bytes; accepted"),
    (object(), TypeError, "region: cannot use a value of type object; accepted"),
    (iter([(1, 2)]), TypeError, "region: cannot use a value of type list_iterator; accepted"),
    ([], ValueError, "regions: expected at least one region, got an empty list"),
    (np.zeros((0, 4)), ValueError, "regions: expected at least one region, got an empty array"),
    (Detections(np.zeros((0, 4))), ValueError, "got an empty Detections"),
    ({}, ValueError, "region: a dict must have counts, segmentation or bbox, got the keys []"),
    ({"a": 1}, ValueError, "got the keys ['a']; accepted: a Region"),
    ((1, 2, 3), ValueError, "a box of 4 numbers or a point of 2, got shape (3,)"),
    ((-5, 1, 10, 10), ValueError, "box: coordinates must not be negative, got (-5, 1, 10, 10)"),
    ((1, 2, 65, 10), ValueError, "box: must lie inside the image of width 64 and height 48"),
    ((9, 5, 5, 9), ValueError, "box: must have x0 < x1 and y0 < y1, got (9, 5, 5, 9)"),
    ((64, 3), ValueError, "point: must lie inside the image (0 <= x < 64, 0 <= y < 48), got (64"),
    ((1, -3), ValueError, "point: coordinates must not be negative, got (1, -3)"),
    (np.zeros(SIZE, bool), ValueError, "mask: is empty (no pixel is inside)"),
    (torch.zeros(SIZE), ValueError, "mask: is empty (no pixel is inside)"),
    (Region.from_mask(np.zeros(SIZE, bool)), ValueError, "mask: is empty (no pixel is inside)"),
    ({"size": SIZE, "counts": [48 * 64]}, ValueError, "mask: is empty (no pixel is inside)"),
    ({"segmentation": [[90, 0, 99, 0, 99, 9]]}, ValueError, "mask: is empty (no pixel is inside)"),
    (
        example_mask().T,
        ValueError,
        "mask: expected shape (48, 64) to match the image, got (64, 48)",
    ),
    (Region.from_mask(example_mask().T), ValueError, "mask: expected shape (48, 64) to match the"),
    (rle_encode(example_mask().T), ValueError, "rle: expected size (48, 64) to match the image"),
    (np.stack([example_mask()] * 3, axis=-1), ValueError, "(3 channels; pass one of them"),
    (Region.from_box((1, 2, 3, 400)), ValueError, "box: must lie inside the image of width 64"),
    (
        [example_mask(), example_mask().T],
        ValueError,
        "regions[1]: mask: expected shape (48, 64) to",
    ),
    ([(1, 2), None], TypeError, "regions[1]: region: cannot use a value of type NoneType"),
    ([(1, 2), "no.png"], FileNotFoundError, "regions[1]: mask: no such file: 'no.png'"),
    ([(1, 2), [example_mask()]], TypeError, "regions[1]: region: cannot use a value of type list"),
    (np.stack([example_mask(), example_mask() & False]), ValueError, "regions[1]: mask: is empty"),
    (Detections(np.array([BOX]), confidence=np.array([1, 2])), ValueError, "score must have 1 val"),
]


@pytest.mark.parametrize(("thing", "error", "message"), REFUSED)
def test_refuses_and_says_why(thing, error, message) -> None:
    with pytest.raises(error) as caught:
        as_regions(thing, SIZE)
    assert message in str(caught.value)


def test_as_region_wants_exactly_one() -> None:
    with pytest.raises(ValueError, match="region: expected exactly one region, got 2"):
        as_region([(1, 2), (3, 4)], SIZE)


def test_the_size_is_checked_first() -> None:
    with pytest.raises(TypeError, match=r"size: must be two integers \(height, width\), got None"):
        as_regions((1, 2), None)  # type: ignore[arg-type]
