"""Run-length encoding and pairwise overlaps, side by side with pycocotools.

    pip install ".[bench]" && pytest benchmarks/regions/bench_rle.py --benchmark-columns=median,iqr

64 smooth blobs and 16 masks of pure noise (the worst case for runs), all 1024 x 1024. Results are
checked to be equal before they are timed. One thread.
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


@pytest.mark.parametrize("library", ["pycocotools", "fastregion", "fastregion-to-bits"])
def test_decode(benchmark, data, library: str) -> None:
    for rle, mask in zip(data["rles"], data["masks"], strict=True):
        np.testing.assert_array_equal(rle_decode(rle), mask)
    calls = {
        "pycocotools": each(coco.decode, data["rles"]),
        "fastregion": each(rle_decode, data["rles"]),
        "fastregion-to-bits": each(Region.from_rle, data["rles"]),
    }
    benchmark(calls[library])


@pytest.mark.parametrize("library", ["pycocotools", "fastregion"])
def test_area(benchmark, data, library: str) -> None:
    assert [rle_area(rle) for rle in data["rles"]] == coco.area(data["rles"]).tolist()
    calls = {
        "pycocotools": lambda: coco.area(data["rles"]),
        "fastregion": each(rle_area, data["rles"]),
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
