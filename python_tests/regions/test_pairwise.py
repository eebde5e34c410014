"""Pairwise intersection, IoU and containment, held to pycocotools and to plain NumPy."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from fastregion._native import native_module
from fastregion.regions import Region, containment, intersection, iou

coco = pytest.importorskip("pycocotools.mask")


def random_regions(seed: int, count: int, size: tuple[int, int]) -> list[Region]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    regions = [
        Region.from_mask(np.zeros(size, bool)),
        Region.from_mask(np.ones(size, bool)),
        Region.from_mask(rng.random(size) < 0.5),
    ]
    while len(regions) < count:
        center = rng.uniform(0, size)
        distance = np.hypot(y - center[0], x - center[1])
        regions.append(Region.from_mask(distance < rng.uniform(0, max(size) / 3)))
    return regions


SIZES = [(1, 1), (40, 64), (65, 129), (200, 700)]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("size", SIZES)
def test_iou_equals_pycocotools(size: tuple[int, int]) -> None:
    first = random_regions(1, 12, size)
    second = random_regions(2, 9, size)
    iscrowd = [index % 3 == 0 for index in range(len(second))]
    for flags in (None, iscrowd):
        theirs = coco.iou(
            [region.rle for region in first],
            [region.rle for region in second],
            [int(flag) for flag in flags or [False] * len(second)],
        )
        np.testing.assert_array_equal(iou(first, second, iscrowd=flags), theirs)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("size", SIZES)
def test_intersection_and_containment_are_what_they_say(size: tuple[int, int]) -> None:
    first = random_regions(3, 8, size)
    second = random_regions(4, 5, size)
    shared = intersection(first, second)
    inside = containment(first, second)
    assert shared.dtype == np.int64
    assert shared.shape == inside.shape == (8, 5)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            assert shared[i, j] == np.count_nonzero(a.mask & b.mask)
            assert inside[i, j] == (shared[i, j] / a.area if a.area else 0)


@pytest.mark.usefixtures("implementation")
def test_one_list_is_compared_with_itself() -> None:
    regions = random_regions(5, 11, (50, 130))
    for function in (intersection, iou, containment):
        np.testing.assert_array_equal(function(regions), function(regions, list(regions)))
    diagonal = [region.area > 0 for region in regions]
    np.testing.assert_array_equal(np.diagonal(iou(regions)), diagonal)


@pytest.mark.usefixtures("implementation")
def test_empty_lists_give_empty_matrices() -> None:
    regions = random_regions(6, 4, (10, 10))
    assert intersection([], regions).shape == (0, 4)
    assert iou(regions, []).shape == (4, 0)
    assert containment([]).shape == (0, 0)


def test_refuses_regions_that_cannot_be_compared() -> None:
    small = Region.from_box((0, 0, 2, 2), (10, 10))
    large = Region.from_box((0, 0, 2, 2), (10, 20))
    with pytest.raises(ValueError, match=r"iou: .*same size, got \(10, 10\) and \(10, 20\)"):
        iou([small], [large])
    with pytest.raises(ValueError, match="intersection: regions must be bound to an image"):
        intersection([small], [Region.from_box((0, 0, 2, 2))])
    with pytest.raises(TypeError, match="must be given lists of Region, got ndarray"):
        containment([small], [small.mask])
    with pytest.raises(ValueError, match=r"one flag per second region, shape \(1,\), got \(2,\)"):
        iou([small], [small], iscrowd=[True, False])


# ---- threads and forks, native only ----------------------------------------------------------

native = pytest.mark.skipif(native_module() is None, reason="the native module is not built")


def native_counts(regions: list[Region], symmetric: bool, num_threads: int) -> np.ndarray:
    bits = [region.bits for region in regions]
    boxes = np.array([region.box for region in regions])
    module = native_module()
    assert module is not None
    return module.regions.intersections(bits, boxes, bits, boxes, symmetric, num_threads)


@native
@pytest.mark.parametrize("symmetric", [False, True])
def test_threads_do_not_change_the_counts(symmetric: bool) -> None:
    regions = random_regions(7, 61, (64, 200))
    alone = native_counts(regions, symmetric, num_threads=1)
    for num_threads in (2, 3, 8):
        np.testing.assert_array_equal(native_counts(regions, symmetric, num_threads), alone)


def _count_in_child(regions: list[Region], queue: multiprocessing.Queue) -> None:
    queue.put(native_counts(regions, symmetric=True, num_threads=2).sum())


@native
def test_works_in_a_forked_child_of_a_process_that_used_threads() -> None:
    regions = random_regions(8, 61, (64, 200))
    expected = native_counts(regions, symmetric=True, num_threads=2).sum()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_count_in_child, args=(regions, queue))
    child.start()
    try:
        assert queue.get(timeout=60) == expected
        child.join(timeout=60)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
        queue.close()


@native
def test_boxes_outside_the_masks_are_refused() -> None:
    bits = [np.zeros((4, 1), np.uint64)]
    module = native_module()
    assert module is not None
    for box in ([-1, 0, 2, 2], [0, 0, 65, 2], [0, 0, 2, 5]):
        with pytest.raises(ValueError, match="boxes: must lie inside the masks"):
            module.regions.intersections(bits, np.array([box]), bits, np.array([box]), False, 1)
