"""Proposed regions: areas of like colour."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fastregion.regions import intersection, iou
from fastregion.regions.proposals import propose_regions, proposer_name
from fastregion.scenes.generate import generate_scene


def test_flat_areas_are_found() -> None:
    image = np.full((240, 320, 3), 150, np.uint8)
    image[30:110, 20:100] = (205, 35, 35)
    rows, columns = np.mgrid[:240, :320]
    disc = (rows - 170) ** 2 + (columns - 240) ** 2 < 50**2
    image[disc] = (40, 160, 50)
    found = propose_regions(image)
    assert len(found) == 3
    assert [region.area for region in found] == sorted((r.area for r in found), reverse=True)
    square = np.zeros((240, 320), bool)
    square[30:110, 20:100] = True
    for wanted in (disc, square):
        overlaps = [(region.mask & wanted).sum() / (region.mask | wanted).sum() for region in found]
        assert max(overlaps) > 0.9


@pytest.mark.parametrize("shape", [(900, 600), (37, 1100), (1, 1), (3, 5)])
def test_regions_cover_the_image_without_overlap(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    rows, columns = np.arange(shape[0]) * 6 // shape[0], np.arange(shape[1]) * 6 // shape[1]
    image = coarse[np.ix_(rows, columns)]
    for most in (1, 5, 40):
        found = propose_regions(image, most)
        assert 1 <= len(found) <= most
        assert sum(region.area for region in found) == shape[0] * shape[1]
        shared = intersection(found)
        assert np.count_nonzero(shared) == len(found)
        assert all(region.size == shape for region in found)


def test_objects_of_a_rendered_scene() -> None:
    scene = generate_scene(3)
    found = propose_regions(scene.image)
    from fastregion.regions import Region

    objects = [Region.from_mask(region.mask) for region in scene.regions]
    assert iou(objects, found).max(1).max() > 0.6


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "scikit-image" in proposer_name()
    monkeypatch.setitem(sys.modules, "skimage", None)
    for call in (proposer_name, lambda: propose_regions(np.zeros((4, 4, 3), np.uint8))):
        with pytest.raises(ImportError, match=r'pip install "fastregion\[segment\]"'):
            call()


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="image: dtype must be uint8, got float64"):
        propose_regions(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"image: expected shape \[H, W, 3\], got \(4, 4\)"):
        propose_regions(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="max_regions: must be an integer of at least 1, got 0"):
        propose_regions(np.zeros((4, 4, 3), np.uint8), 0)
