"""Masks as torch tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastregion.regions import Region, mask_tensor


def random_regions(size: tuple[int, int]) -> list[Region]:
    rng = np.random.default_rng(0)
    return [Region.from_mask(rng.random(size) < density) for density in (0, 0.5, 1)]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("size", [(1, 1), (3, 16), (7, 64), (48, 100), (33, 336), (5, 1023)])
def test_is_the_masks_stacked(device: str, size: tuple[int, int]) -> None:
    regions = random_regions(size)
    masks = mask_tensor(regions, device)
    assert masks.dtype == torch.bool
    assert masks.device.type == device
    np.testing.assert_array_equal(masks.cpu(), np.stack([region.mask for region in regions]))


@pytest.mark.gpu
def test_runs_on_the_current_stream() -> None:
    regions = random_regions((48, 64))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        masks = mask_tensor(regions, "cuda")
    stream.synchronize()
    np.testing.assert_array_equal(masks.cpu(), np.stack([region.mask for region in regions]))


def test_refuses_regions_that_cannot_be_stacked() -> None:
    region = Region.from_box((0, 0, 1, 1), (4, 5))
    with pytest.raises(ValueError, match="mask_tensor: expected at least one region, got none"):
        mask_tensor([])
    with pytest.raises(ValueError, match=r"same size, got \[\(4, 5\), \(5, 4\)\]"):
        mask_tensor([region, Region.from_box((0, 0, 1, 1), (5, 4))])
    with pytest.raises(ValueError, match="region: is not bound to an image yet"):
        mask_tensor([Region.from_box((0, 0, 1, 1))])
