"""mask_resize and the centre rule of mask_tiles, side by side with Pillow.

    pip install ".[bench]"
    pytest benchmarks/ops/bench_mask_resize.py --benchmark-columns=median,iqr

One 1500 x 2250 mask. DAM: bicubic to 384 x 384, in the released code as an RGB picture of three
equal channels. URECA: the thumbnail bicubic in float32 to 448 x 448, cut and wrapped to bytes; the
2 x 3 tiles of 448 by nearest. One thread; every byte is compared before it is timed.

Floor: the mask is read once, 3.4 MB as bytes or 0.4 MB as bits, and 0.15 MB written. Pillow's first
pass is 1500 x 384 windows of 24 taps; only those at the mask's outline need arithmetic.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastregion.ops import BitMasks, mask_resize, mask_tiles

HEIGHT, WIDTH = 1500, 2250
BICUBIC, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.NEAREST


@pytest.fixture(scope="module", params=["ellipse", "noise"])
def mask(request: pytest.FixtureRequest) -> Tensor:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if request.param == "noise":
        return torch.rand(HEIGHT, WIDTH) > 0.5
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return ((y / HEIGHT - 0.4) / 0.15) ** 2 + ((x / WIDTH - 0.6) / 0.1) ** 2 < 1


def resized(picture: Image.Image, size: int) -> np.ndarray:
    """Columns first, as in the released systems' Pillow; two calls cost what one does."""
    narrow = picture.resize((size, HEIGHT), BICUBIC)
    return np.asarray(narrow.resize((size, size), BICUBIC))


def dam_published(mask: Tensor) -> np.ndarray:
    picture = Image.fromarray(255 * mask.numpy().astype(np.uint8)).convert("RGB")
    return resized(picture, 384)[..., 0]


def pillow_alone(mask: Tensor) -> np.ndarray:
    return resized(Image.fromarray(255 * mask.numpy().astype(np.uint8)), 384)


def ureca_picture(mask: Tensor) -> Image.Image:
    return Image.fromarray((255.0 * mask.numpy().astype(np.float64)).astype(np.float32))


def ureca_thumbnail(mask: Tensor) -> np.ndarray:
    grey = np.trunc(resized(ureca_picture(mask), 448)).astype(np.int64) & 255
    return grey.astype(np.uint8)


def ureca_tiles(mask: Tensor) -> np.ndarray:
    canvas = np.asarray(ureca_picture(mask).resize((3 * 448, 2 * 448), NEAREST)).astype(np.uint8)
    return canvas.reshape(2, 448, 3, 448).transpose(0, 2, 1, 3).reshape(6, 448, 448)


def measure(benchmark, name: str, mask: Tensor, expected: np.ndarray, ours: bool, call) -> None:
    if ours:
        result = call()
        grey = 255 * result.unpack().byte() if isinstance(result, BitMasks) else result
        assert np.array_equal(grey.numpy(), expected)
    benchmark.group = f"{name} {'noise' if mask[0].any() else 'ellipse'}"
    benchmark.pedantic(call, rounds=11, warmup_rounds=1)


@pytest.mark.parametrize("way", ["published", "pillow alone", "fastregion", "from bits"])
def test_dam(benchmark, mask: Tensor, way: str) -> None:
    bits = BitMasks.pack(mask)
    calls = {
        "published": lambda: dam_published(mask),
        "pillow alone": lambda: pillow_alone(mask),
        "fastregion": lambda: mask_resize(mask, 384, backend="cpu"),
        "from bits": lambda: mask_resize(bits, 384, backend="cpu"),
    }
    ours = way in ("fastregion", "from bits")
    measure(benchmark, "DAM, 384", mask, dam_published(mask), ours, calls[way])


@pytest.mark.parametrize("way", ["published", "fastregion", "from bits"])
def test_ureca_thumbnail(benchmark, mask: Tensor, way: str) -> None:
    bits = BitMasks.pack(mask)
    calls = {
        "published": lambda: ureca_thumbnail(mask),
        "fastregion": lambda: mask_resize(mask, 448, "bicubic_wrapped", backend="cpu"),
        "from bits": lambda: mask_resize(bits, 448, "bicubic_wrapped", backend="cpu"),
    }
    ours = way != "published"
    measure(benchmark, "URECA thumbnail, 448", mask, ureca_thumbnail(mask), ours, calls[way])


@pytest.mark.parametrize("way", ["published", "fastregion", "from bits"])
def test_ureca_tiles(benchmark, mask: Tensor, way: str) -> None:
    bits = BitMasks.pack(mask)
    calls = {
        "published": lambda: ureca_tiles(mask),
        "fastregion": lambda: mask_tiles(mask, (2, 3), 448, False, rule="centre", backend="cpu"),
        "from bits": lambda: mask_tiles(bits, (2, 3), 448, False, rule="centre", backend="cpu"),
    }
    ours = way != "published"
    measure(benchmark, "URECA 2 x 3 tiles", mask, ureca_tiles(mask), ours, calls[way])
