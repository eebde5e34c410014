"""COCO run-length encoding, held to pycocotools."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastregion._native import native_module
from fastregion.regions import (
    rle_area,
    rle_compress,
    rle_decode,
    rle_encode,
    rle_to_bbox,
    rle_uncompress,
)

coco = pytest.importorskip("pycocotools.mask")

NUM_RANDOM_MASKS = {"native": 1000, "reference": 150}


def random_masks(seed: int, count: int) -> Iterator[NDArray[np.bool_]]:
    """Empty, full, one pixel, one row, one column, blobs with holes, stripes, noise; many sizes."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        height, width = rng.integers(1, 150, 2).tolist()
        kind = index % 9
        if kind == 3:
            height = 1
        elif kind == 4:
            width = 1
        elif kind == 5:  # sizes around the words that masks are packed into
            height, width = rng.choice([63, 64, 65, 127, 128, 129], 2).tolist()
        mask = np.zeros((height, width), bool)
        if kind == 1:
            mask[:] = True
        elif kind == 2:
            mask[rng.integers(height), rng.integers(width)] = True
        elif kind == 6:
            y, x = np.mgrid[:height, :width]
            distance = np.hypot(y - rng.integers(height), x - rng.integers(width))
            mask = (distance < rng.integers(2, 60)) & (distance > rng.integers(0, 20))
        elif kind == 7:
            mask[:, :: rng.integers(1, 5)] = True
        elif kind != 0:
            mask = rng.random((height, width)) < rng.choice([0.01, 0.5, 0.99])
        yield mask


def test_equals_pycocotools_on_random_masks(implementation: str) -> None:
    count = NUM_RANDOM_MASKS[implementation]
    for index, mask in enumerate(random_masks(seed=0, count=count)):
        theirs = coco.encode(np.asfortranarray(mask, np.uint8))
        ours = rle_encode(mask)
        assert ours == {"size": list(mask.shape), "counts": theirs["counts"].decode()}, index
        np.testing.assert_array_equal(rle_decode(theirs), mask, err_msg=f"mask {index}")
        assert rle_area(ours) == coco.area(theirs) == mask.sum(), index
        assert rle_to_bbox(ours) == tuple(coco.toBbox(theirs)), index

        uncompressed = rle_uncompress(ours)
        again = coco.frPyObjects(uncompressed, *mask.shape)
        assert again["counts"] == theirs["counts"], index
        assert rle_compress(uncompressed) == ours, index
        np.testing.assert_array_equal(rle_decode(uncompressed), mask, err_msg=f"mask {index}")


@pytest.mark.usefixtures("implementation")
def test_a_list_is_decoded_to_one_array() -> None:
    rng = np.random.default_rng(1)
    masks = rng.random((5, 70, 130)) < np.array([0, 0.01, 0.5, 0.99, 1])[:, None, None]
    rles = [rle_encode(mask) for mask in masks]
    np.testing.assert_array_equal(rle_decode(rles), masks)
    theirs = coco.decode([{**rle, "counts": rle["counts"].encode()} for rle in rles])
    np.testing.assert_array_equal(rle_decode(rles), theirs.transpose(2, 0, 1))
    np.testing.assert_array_equal(rle_decode([rle_uncompress(rles[2])]), masks[2:3])
    with pytest.raises(ValueError, match=r"rle_decode: .* the same size, got \[\]"):
        rle_decode([])
    with pytest.raises(ValueError, match=r"the same size, got \[\(1, 7\), \(70, 130\)\]"):
        rle_decode([rles[0], {"size": (1, 7), "counts": "52"}])
    with pytest.raises(ValueError, match="must sum to 70"):
        rle_decode([rles[0], {"size": (70, 130), "counts": "52"}])


@pytest.mark.skipif(native_module() is None, reason="the native module is not built")
def test_threads_do_not_change_a_list() -> None:
    module = native_module()
    assert module is not None
    for mask in random_masks(2, 9):
        texts = [rle_encode(part)["counts"].encode() for part in (mask, ~mask, mask, mask)]
        alone = module.regions.strings_to_masks(texts, *mask.shape, 1)
        for num_threads in (2, 3):
            several = module.regions.strings_to_masks(texts, *mask.shape, num_threads)
            np.testing.assert_array_equal(several, alone)


@pytest.mark.usefixtures("implementation")
def test_large_counts_take_several_characters() -> None:
    mask = np.zeros((3000, 2000), bool)
    mask[1234, 777] = mask[5, 1999] = True
    theirs = coco.encode(np.asfortranarray(mask, np.uint8))
    assert rle_encode(mask)["counts"].encode() == theirs["counts"]
    np.testing.assert_array_equal(rle_decode(theirs), mask)


@pytest.mark.usefixtures("implementation")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(st.integers(0, 40), min_size=1, max_size=30), height=st.integers(1, 12))
def test_runs_of_length_zero_are_read_as_pycocotools_reads_them(
    runs: list[int], height: int
) -> None:
    runs = [*runs, -sum(runs) % height]
    width = sum(runs) // height
    if width == 0:
        return
    rle = {"size": [height, width], "counts": runs}
    theirs = coco.frPyObjects(rle, height, width)
    assert rle_compress(rle)["counts"].encode() == theirs["counts"]
    assert rle_uncompress(theirs)["counts"] == runs
    np.testing.assert_array_equal(rle_decode(rle), coco.decode(theirs))
    assert rle_area(rle) == coco.area(theirs)


@pytest.mark.parametrize("counts", ["52", b"52", [5, 2], (5, 2), np.array([5, 2], np.uint32)])
def test_accepts_text_bytes_and_lists(counts: object) -> None:
    expected = np.array([[0, 0, 0, 0, 0, 1, 1]], bool)
    np.testing.assert_array_equal(rle_decode({"size": (1, 7), "counts": counts}), expected)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize(
    ("rle", "error", "message"),
    [
        (7, TypeError, "rle: must be a dict with size and counts, got int"),
        ({"size": [1, 7]}, ValueError, "rle: must have the keys size and counts, got ['size']"),
        ({"size": [1, 7, 1], "counts": "52"}, TypeError, "rle: size: must be two integers"),
        ({"size": [1.5, 7], "counts": "52"}, TypeError, "rle: size: must be two integers"),
        ({"size": [0, 7], "counts": "0"}, ValueError, "rle: size: must be positive"),
        ({"size": [1 << 20, 1 << 20], "counts": "0"}, ValueError, "rle: size: must have at most"),
        ({"size": [1, 7], "counts": None}, TypeError, "rle: counts must be str, bytes or a list"),
        ({"size": [1, 7], "counts": [5.0, 2.0]}, TypeError, "rle: counts must be a flat list of"),
        ({"size": [1, 7], "counts": [[5, 2]]}, TypeError, "rle: counts must be a flat list of"),
        ({"size": [1, 7], "counts": [9, -2]}, ValueError, "rle: counts must not be negative"),
        ({"size": [1, 7], "counts": [5, 1]}, ValueError, "must sum to 1 * 7 = 7, got 6"),
        ({"size": [1, 7], "counts": []}, TypeError, "rle: counts must be a flat list of integers"),
        ({"size": [1, 7], "counts": ""}, ValueError, "must sum to 1 * 7 = 7, got 0"),
        ({"size": [1, 7], "counts": [5, 3]}, ValueError, "got a run of 3 with 2 pixels left"),
        ({"size": [1, 7], "counts": "5 2"}, ValueError, "got code 32 at position 1"),
        ({"size": [1, 7], "counts": "5p2"}, ValueError, "got code 112 at position 1"),
        ({"size": [1, 7], "counts": "5é"}, ValueError, "made of the characters 0 to o"),
        ({"size": [1, 7], "counts": "5P"}, ValueError, "cut short after 2 characters"),
        ({"size": [1, 7], "counts": "O"}, ValueError, "got -1 before position 1"),
        ({"size": [1, 7], "counts": "oooooooooo1"}, ValueError, "more than 8 digits at position 8"),
    ],
)
@pytest.mark.parametrize("function", [rle_decode, rle_area, rle_to_bbox, rle_compress])
def test_refuses_malformed_rle(function, rle, error, message) -> None:
    with pytest.raises(error) as caught:
        function(rle)
    assert message in str(caught.value)


@pytest.mark.usefixtures("implementation")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text("0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmno", max_size=40)
)
def test_any_text_is_either_decoded_or_refused(text: str) -> None:
    rle = {"size": [7, 11], "counts": text}
    try:
        mask = rle_decode(rle)
    except ValueError:
        return
    assert mask.shape == (7, 11)
    assert rle_area(rle) == mask.sum()
    np.testing.assert_array_equal(rle_decode(rle_encode(mask)), mask)
