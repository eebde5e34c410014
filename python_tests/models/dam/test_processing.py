"""Pixels of the two views, whatever version of Pillow resizes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fastregion.models.dam.processing import focal_crop, full_view, views
from fastregion.ops.resample import PRECISION_BITS, bicubic_table
from fastregion.regions import Region


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """``[C, H, W]`` resized by the definition: columns, rounding, then rows."""
    for _ in range(2):
        window, weights = bicubic_table(pixels.shape[-1], size, True, torch.device("cpu"))
        last = pixels.shape[-1] - 1
        index = (window[:, :1] + torch.arange(weights.shape[1])).clamp(max=last).numpy()
        total = (pixels.astype(np.int64)[..., index] * weights.long().numpy()).sum(-1)
        rounded = (total + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS
        pixels = rounded.clip(0, 255).swapaxes(-1, -2)
    return pixels


# Of the tall one, recent versions of Pillow would resize the rows first, and differ.
@pytest.mark.parametrize("shape", [(400, 50), (50, 400), (30, 30), (97, 61), (29, 80), (80, 29)])
def test_columns_come_first(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    mask = np.zeros(shape, bool)
    mask[5:20, 3:13] = rng.random((15, 10)) < 0.5
    region = Region.from_mask(mask)
    found = views(image, region, 29)
    left, top, right, bottom = focal_crop(region.box, shape)
    four = np.concatenate((image, np.where(mask, 255, 0)[..., None]), -1).transpose(2, 0, 1)
    expected = [resized(four, 29), resized(four[:, top:bottom, left:right], 29)]
    assert np.array_equal(found.numpy(), np.concatenate(expected))
    assert torch.equal(full_view(image, 29), found[:3])


def test_the_order_matters() -> None:
    """What the test above would find."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 50, 3), dtype=np.uint8)
    rows = Image.fromarray(pixels).resize((50, 29), Image.Resampling.BICUBIC)
    rows_first = np.array(rows.resize((29, 29), Image.Resampling.BICUBIC))
    assert not np.array_equal(rows_first, full_view(pixels, 29).permute(1, 2, 0).numpy())
