from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from fastregion.evaluation.data_urls import data_url


def decoded(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


def test_pictures_and_masks() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert data_url(rgb).startswith("data:image/png;base64,")
    assert (decoded(data_url(rgb)) == rgb).all()
    assert (decoded(data_url(rgb[..., 0] > 99)) == 255 * (rgb[..., 0] > 99)).all()
    flat = np.full((16, 16, 3), 120, np.uint8)
    assert data_url(flat, "JPEG").startswith("data:image/jpeg;base64,")
    assert np.abs(decoded(data_url(flat, "JPEG")).astype(int) - 120).max() <= 2


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4), np.float32), "pixels: dtype must be uint8 or bool, got float32"),
        (np.zeros((4, 4, 2), np.uint8), r"pixels: expected shape .*, got \(4, 4, 2\)"),
        (np.zeros((0, 4), np.uint8), r"pixels: expected shape .*, got \(0, 4\)"),
    ],
)
def test_what_is_no_picture(pixels: np.ndarray, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        data_url(pixels)
