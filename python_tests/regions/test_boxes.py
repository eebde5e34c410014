"""Box conventions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastregion.regions import (
    Region,
    pycocotools_from_xyxy,
    rle_to_bbox,
    sam_from_xyxy,
    supervision_from_xyxy,
    xyxy_from_pycocotools,
    xyxy_from_sam,
    xyxy_from_supervision,
)

PAIRS = [
    (xyxy_from_pycocotools, pycocotools_from_xyxy),
    (xyxy_from_sam, sam_from_xyxy),
    (xyxy_from_supervision, supervision_from_xyxy),
]


def test_a_single_pixel_in_every_convention() -> None:
    pixel = (3, 5, 4, 6)
    assert pycocotools_from_xyxy(pixel).tolist() == [3, 5, 1, 1]
    assert sam_from_xyxy(pixel).tolist() == [3, 5, 0, 0]
    assert supervision_from_xyxy(pixel).tolist() == [3, 5, 3, 5]


def test_pycocotools_convention_is_that_of_its_boxes() -> None:
    region = Region.from_box((3, 5, 17, 9), size=(20, 30))
    assert pycocotools_from_xyxy(region.box).tolist() == list(rle_to_bbox(region.rle))


@given(st.lists(st.tuples(*[st.integers(-100, 100)] * 4), max_size=5))
def test_converters_undo_each_other(boxes: list[tuple[int, int, int, int]]) -> None:
    array = np.array(boxes, np.int32).reshape(-1, 4)
    for to_xyxy, from_xyxy in PAIRS:
        assert to_xyxy(array).dtype == np.int32
        np.testing.assert_array_equal(to_xyxy(from_xyxy(array)), array)
        np.testing.assert_array_equal(from_xyxy(to_xyxy(array)), array)


def test_keeps_fractions_and_leading_axes_and_does_not_wrap_around() -> None:
    assert xyxy_from_pycocotools([0.5, 1, 2, 3.25]).tolist() == [0.5, 1, 2.5, 4.25]
    assert xyxy_from_pycocotools(np.zeros((2, 3, 4))).shape == (2, 3, 4)
    unsigned = np.array([0, 0, 0, 0], np.uint8)
    assert supervision_from_xyxy(unsigned).tolist() == [0, 0, -1, -1]


@pytest.mark.parametrize(("function", "inverse"), PAIRS)
def test_refuses_what_is_no_box(function, inverse) -> None:
    for convert in (function, inverse):
        with pytest.raises(ValueError, match=rf"{convert.__name__}: boxes must be .* \(3,\)"):
            convert([1, 2, 3])
        with pytest.raises(TypeError, match=f"{convert.__name__}: boxes must be numbers"):
            convert(["a", "b", "c", "d"])
