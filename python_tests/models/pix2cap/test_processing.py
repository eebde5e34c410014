"""Sizes and pixels of Pix2Cap's batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastregion.models.pix2cap import Pix2CapConfig
from fastregion.models.pix2cap.processing import inference_size, normalise, pad_batch, resize

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((500, 500), (800, 800)),
        ((480, 1280), (500, 1333)),  # the longer side decides
        ((1, 10_000), (1, 1333)),
        ((2000, 3000), (800, 1200)),
    ],
)
def test_inference_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert inference_size(size) == expected


def test_a_batch_is_padded_with_zeros_after_normalising() -> None:
    pixels = [
        torch.from_numpy(RNG.integers(0, 256, (3, *size), dtype=np.uint8))
        for size in ((33, 20), (10, 64))
    ]
    config = Pix2CapConfig()
    batch = pad_batch([normalise(image, config.pixel_mean, config.pixel_std) for image in pixels])
    assert batch.shape == (2, 3, 64, 64)
    assert batch.dtype == torch.float32
    assert batch[0, :, 33:].count_nonzero() == batch[0, :, :, 20:].count_nonzero() == 0
    exact = (pixels[1].double().numpy() - [[[123.675]], [[116.28]], [[103.53]]]) / [
        [[58.395]],
        [[57.12]],
        [[57.375]],
    ]
    assert np.abs(batch[1, :, :10, :64].numpy() - exact).max() < 1e-6


def test_resizing_keeps_what_is_flat() -> None:
    image = np.full((30, 40, 3), (10, 200, 90), np.uint8)
    assert (resize(image, (7, 91)) == (10, 200, 90)).all()
    assert resize(image, (7, 91)).shape == (7, 91, 3)
