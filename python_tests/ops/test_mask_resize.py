"""mask_resize against Pillow itself, byte by byte, on every backend."""

import os

import numpy as np
import pytest
import simt_module
import torch
from PIL import Image
from torch import Tensor

from fastregion.ops import BitMasks, mask_resize

# (height, width) of the mask, (height, width) of the result: shrunk, grown, mixed, untouched, and
# windows of more pixels than a word has
SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (5, 3)),
    ((7, 5), (1, 1)),
    ((50, 67), (13, 31)),
    ((20, 31), (53, 64)),
    ((64, 33), (16, 97)),
    ((64, 129), (64, 129)),
    ((5, 400), (3, 16)),
    ((301, 40), (17, 40)),
]


def make_masks(height: int, width: int) -> Tensor:
    """Noise, empty, full, a box, a disc, a frame along the border, a checkerboard, one pixel."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    box = (y >= height // 3) & (y < height - 1) & (x >= width // 4) & (x <= width // 2)
    disc = ((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2 < 0.15
    frame = (y == 0) | (x == 0) | (y == height - 1) | (x == width - 1)
    noise = torch.rand(height, width) > 0.5
    full = torch.ones(height, width, dtype=torch.bool)
    pixel = (y == height // 2) & (x == width // 2)
    return torch.stack((noise, ~full, full, box, disc, frame, (x + y) % 2 == 0, pixel))


def by_pillow(mask: Tensor, size: tuple[int, int], rule: str) -> Tensor:
    """Two calls pin the order of the passes, in every version of Pillow."""
    pixels = 255 * mask.numpy().astype(np.uint8 if rule == "bicubic" else np.float32)
    picture = Image.fromarray(pixels)
    for width, height in ((size[1], mask.shape[0]), (size[1], size[0])):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    grey = np.array(picture)
    return torch.from_numpy((np.trunc(grey).astype(np.int64) & 255).astype(np.uint8))


@pytest.mark.parametrize("rule", ["bicubic", "bicubic_wrapped"])
@pytest.mark.parametrize(("source", "size"), SIZES, ids=str)
def test_is_pillow(backend, source, size, rule) -> None:
    masks = make_masks(*source)
    grey = mask_resize(masks.to(backend.device), size, rule, backend=backend.name)
    assert grey.dtype == torch.uint8
    assert torch.equal(grey.cpu(), torch.stack([by_pillow(mask, size, rule) for mask in masks]))


@pytest.mark.parametrize("rule", ["bicubic", "bicubic_wrapped"])
def test_sizes_of_the_published_systems(backend, rule) -> None:
    if backend.name == "cpu" and rule == "bicubic":
        height, width, size = 427, 640, 384  # DAM
    else:
        height, width, size = 118, 173, 56  # URECA's, made smaller
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    mask = ((y / height - 0.4) / 0.3) ** 2 + ((x / width - 0.6) / 0.2) ** 2 < 1
    grey = mask_resize(mask.to(backend.device), size, rule, backend=backend.name).cpu()
    assert torch.equal(grey, by_pillow(mask, (size, size), rule))
    outline = (grey > 0) & (grey < 255)
    assert outline.any()
    if rule == "bicubic_wrapped":  # overshoot inside wraps to small values
        assert (grey[: size // 2][:, size // 2 :] == 0).any()


def test_shapes_layouts_and_bits(backend) -> None:
    masks = make_masks(20, 70).to(backend.device)
    whole = mask_resize(masks, (9, 11), backend=backend.name)
    assert whole.shape == (8, 9, 11)
    nested = mask_resize(masks.view(2, 4, 20, 70), (9, 11), backend=backend.name)
    assert torch.equal(nested, whole.view(2, 4, 9, 11))
    one = mask_resize(masks[3].byte() * 7, (9, 11), backend=backend.name)
    assert torch.equal(one, whole[3])
    strided = BitMasks(BitMasks.pack(masks).words[::2], 70)
    assert torch.equal(mask_resize(strided, (9, 11), backend=backend.name), whole[::2])
    none = mask_resize(masks[:0], 5, backend=backend.name)
    assert none.shape == (0, 5, 5)


def test_opcheck_and_compile(backend) -> None:
    words = BitMasks.pack(make_masks(20, 70).to(backend.device)).words
    for rule in ("bicubic", "bicubic_wrapped"):
        arguments = (words, 70, [9, 11], rule, backend.name)
        torch.library.opcheck(torch.ops.fastregion.mask_resize.default, arguments)

    def run(masks: Tensor) -> Tensor:
        return mask_resize(masks, 16, backend=backend.name) // 2

    masks = make_masks(20, 70).to(backend.device)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(masks), run(masks))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"masks": torch.zeros(4, 4)}, TypeError, "masks must be bool or uint8, got float32"),
        ({"masks": torch.zeros(4).bool()}, ValueError, r"masks must be \[..., H, W\], got .*4"),
        ({"masks": torch.zeros(0, 4).bool()}, ValueError, r"at least one pixel, got shape \(0, 4"),
        ({"size": (3, 0)}, ValueError, r"size must be two integers of at least 1, got \(3, 0\)"),
        ({"rule": "linear"}, ValueError, "rule must be bicubic or bicubic_wrapped, got 'linear'"),
    ],
)
def test_errors(changes: dict, error: type[Exception], message: str) -> None:
    arguments = {"masks": torch.zeros(4, 4).bool(), "size": 8} | changes
    with pytest.raises(error, match=message):
        mask_resize(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("large", ["mask", "result"])
def test_more_than_31_bits(backend, large: str) -> None:
    """2.2e9 pixels in or out: a mask whose lower right quarter is set."""
    if backend.name == "reference" or os.environ.get(simt_module.VARIABLE):
        pytest.skip("would take minutes, or 100 GB")
    blocks, size = (740, 16) if large == "mask" else (2, 46400)
    words = torch.zeros(64 * blocks, blocks, dtype=torch.int64, device=backend.device)
    words[32 * blocks :, blocks // 2 :] = -1
    result = mask_resize(BitMasks(words, 64 * blocks), size, backend=backend.name)
    middle, margin = size // 2, max(size // 16, 2)
    for rows in (slice(0, middle - margin), slice(middle + margin, None)):
        for columns in (slice(0, middle - margin), slice(middle + margin, None)):
            inside = rows.start > 0 and columns.start > 0
            assert (result[rows, columns] == (255 if inside else 0)).all()
