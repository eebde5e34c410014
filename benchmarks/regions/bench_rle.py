"""Masks as run lengths and bits, and their overlaps, side by side with what one would use instead.

    pip install ".[bench]" && pytest benchmarks/regions/bench_rle.py --benchmark-columns=median,iqr

On a machine with other work, `--benchmark-timer=time.thread_time` counts only one's own time.

64 smooth blobs (strings of 1.0 KB, 850 runs) and 16 masks of pure noise (the worst case for runs:
strings of 524 KB), all 1024 x 1024. One thread; results are checked to be equal before they are
timed; allocation of the results included.

Floors, 64 blobs: decoding to bytes writes 67 MB, to bits 8.4 MB; encoding and areas from bits read
8.4 MB. Overlaps of all pairs read the words where two boxes meet, 11 KB of each mask for 1,344 of
2,080 pairs, from the cache; of noise 131 KB of each for all of 136 pairs. Overlaps are always taken
on the bits, which is what a region holds: a merge of run lengths would walk about 1,000 runs where
two blobs meet, and that takes longer than their words.

Peers: pycocotools; a list at a time where it takes one. NumPy indexing for the resize; for the
boundary, max pooling in torch (boundary IoU itself erodes with OpenCV).
"""

from __future__ import annotations

import numpy as np
import pycocotools.mask as coco
import pytest
import torch

from fastregion.regions import Region, intersection, iou, rle_area, rle_decode, rle_encode
from fastregion.regions import rle_to_bbox as to_bbox

SIDE = 1024
COUNTS = {"blobs": 64, "noise": 16}


def make_masks(kind: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    if kind == "noise":
        return [rng.random((SIDE, SIDE)) < 0.5 for _ in range(COUNTS[kind])]
    y, x = np.mgrid[:SIDE, :SIDE]
    masks = []
    for phase in range(COUNTS[kind]):
        center_y, center_x = rng.uniform(150, SIDE - 150, 2)
        angle = np.arctan2(y - center_y, x - center_x)
        radius = rng.uniform(60, 300) * (1 + 0.2 * np.sin(5 * angle + phase))
        masks.append(np.hypot(y - center_y, x - center_x) < radius)
    return masks


@pytest.fixture(scope="module", params=list(COUNTS))
def data(request: pytest.FixtureRequest) -> dict[str, list]:
    """The masks in every form that is timed."""
    torch.set_num_threads(1)
    masks = make_masks(request.param)
    fortran = [np.asfortranarray(mask, np.uint8) for mask in masks]
    rles = [coco.encode(mask) for mask in fortran]
    return {
        "masks": masks,
        "fortran": fortran,
        "rles": rles,
        "regions": [Region.from_rle(rle) for rle in rles],
    }


def each(function, items):
    return lambda: [function(item) for item in items]


@pytest.mark.parametrize("library", ["pycocotools", "fastregion", "fastregion-from-bits"])
def test_encode(benchmark, data, library: str) -> None:
    expected = [rle["counts"].decode() for rle in data["rles"]]
    assert [rle_encode(mask)["counts"] for mask in data["masks"]] == expected
    calls = {
        "pycocotools": each(coco.encode, data["fortran"]),
        "fastregion": each(rle_encode, data["masks"]),
        # .func: the property without its cache
        "fastregion-from-bits": each(Region.rle.func, data["regions"]),
    }
    benchmark(calls[library])


DECODERS = ["pycocotools", "pycocotools-list", "fastregion", "fastregion-list"]


@pytest.mark.parametrize("library", [*DECODERS, "fastregion-to-bits"])
def test_decode(benchmark, data, library: str) -> None:
    rles = data["rles"]
    np.testing.assert_array_equal(rle_decode(rles), data["masks"])
    np.testing.assert_array_equal(rle_decode(rles[0]), data["masks"][0])
    calls = {
        "pycocotools": each(coco.decode, rles),
        "pycocotools-list": lambda: coco.decode(rles),
        "fastregion": each(rle_decode, rles),
        "fastregion-list": lambda: rle_decode(rles),
        "fastregion-to-bits": each(Region.from_rle, rles),
    }
    benchmark(calls[library])


@pytest.mark.parametrize("library", ["pycocotools", "fastregion", "fastregion-from-bits"])
def test_area(benchmark, data, library: str) -> None:
    assert [rle_area(rle) for rle in data["rles"]] == coco.area(data["rles"]).tolist()
    assert [region.area for region in data["regions"]] == coco.area(data["rles"]).tolist()
    calls = {
        "pycocotools": lambda: coco.area(data["rles"]),
        "fastregion": each(rle_area, data["rles"]),
        "fastregion-from-bits": each(Region._extent.func, data["regions"]),  # the box as well
    }
    benchmark(calls[library])


@pytest.mark.parametrize("library", ["pycocotools", "fastregion"])
def test_bbox(benchmark, data, library: str) -> None:
    np.testing.assert_array_equal([to_bbox(rle) for rle in data["rles"]], coco.toBbox(data["rles"]))
    calls = {
        "pycocotools": lambda: coco.toBbox(data["rles"]),
        "fastregion": each(to_bbox, data["rles"]),
    }
    benchmark(calls[library])


@pytest.mark.parametrize("library", ["pycocotools", "fastregion"])
def test_iou_of_all_pairs(benchmark, data, library: str) -> None:
    rles, regions = data["rles"], data["regions"]
    crowd = [0] * len(rles)
    np.testing.assert_array_equal(iou(regions), coco.iou(rles, rles, crowd))
    calls = {
        "pycocotools": lambda: coco.iou(rles, rles, crowd),
        "fastregion": lambda: iou(regions),
    }
    benchmark.pedantic(calls[library], rounds=3)


def test_intersection_of_all_pairs(benchmark, data) -> None:
    benchmark(lambda: intersection(data["regions"]))


def resize_by_indices(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (np.arange(n) * SIDE // n for n in size)
    return mask[rows[:, None], columns]


@pytest.mark.parametrize("library", ["numpy", "fastregion"])
@pytest.mark.parametrize("size", [(448, 448), (1500, 2250)], ids=str)
def test_resize(benchmark, data, library: str, size: tuple[int, int]) -> None:
    masks, regions = data["masks"][:16], data["regions"][:16]
    np.testing.assert_array_equal(regions[0].resize(size).mask, resize_by_indices(masks[0], size))
    calls = {
        "numpy": each(lambda mask: resize_by_indices(mask, size), masks),
        "fastregion": each(lambda region: region.resize(size), regions),
    }
    benchmark(calls[library])


def boundary_by_pooling(mask: torch.Tensor, width: int) -> torch.Tensor:
    outside = torch.nn.functional.pad(1 - mask, [width] * 4, value=1.0)
    for window in ((1, 2 * width + 1), (2 * width + 1, 1)):
        outside = torch.nn.functional.max_pool2d(outside[None], window, stride=1)[0]
    return mask * outside


@pytest.mark.parametrize("library", ["torch", "fastregion"])
def test_boundary(benchmark, data, library: str) -> None:
    """2 % of the diagonal: 29 pixels."""
    masks = [torch.from_numpy(mask).float()[None] for mask in data["masks"][:4]]
    regions = data["regions"][:4]
    expected = boundary_by_pooling(masks[0], 29)[0].bool()
    np.testing.assert_array_equal(regions[0].boundary().mask, expected)
    calls = {
        "torch": each(lambda mask: boundary_by_pooling(mask, 29), masks),
        "fastregion": each(Region.boundary, regions),
    }
    benchmark.pedantic(calls[library], rounds=3)
