"""The bit-packed container: layout, round trips, refusals."""

import os

import numpy as np
import pytest
import simt_module
import torch
from torch import Tensor

from fastregion.ops import (
    BitMasks,
    mask_encode,
    mask_patch_embed,
    mask_patch_embed_,
    mask_resize,
    mask_tiles,
)

WIDTHS = [0, 1, 7, 16, 63, 64, 65, 130, 208]


def numbers(like: BitMasks, *shape: int) -> Tensor:
    """Parameters, the same ones for every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like.words.device)


def embed_patches(masks: BitMasks, backend: str) -> Tensor:
    weight = numbers(masks, 5, 1, 3, 3).requires_grad_()
    tokens = mask_patch_embed(masks, weight, outside=-1.0, backend=backend)
    return torch.cat([tokens.flatten(), torch.autograd.grad(tokens.sum(), weight)[0].flatten()])


def embed_patches_in_place(masks: BitMasks, backend: str) -> Tensor:
    patches = masks.shape[-2] // 3 * masks.shape[-1] // 3
    with torch.no_grad():
        tokens = numbers(masks, len(masks.words), patches, 5)
        return mask_patch_embed_(tokens, masks, numbers(masks, 5, 1, 3, 3), backend=backend)


def encode(masks: BitMasks, backend: str) -> Tensor:
    positions = -(-masks.shape[-2] // 4) * -(-masks.shape[-1] // 4)
    shapes = ((2, 1, 3, 3), (2,), (3, 2, 3, 3), (3,), (4, positions), (4,))
    return mask_encode(masks, *(numbers(masks, *shape) for shape in shapes), backend=backend)


OPERATORS = {
    "unpack": lambda masks, backend: masks.unpack(backend=backend),
    "mask_tiles, smaller": lambda masks, backend: mask_tiles(masks, (2, 1), 2, backend=backend),
    "mask_tiles, larger": lambda masks, backend: mask_tiles(masks, (1, 2), 70, backend=backend),
    "mask_resize, smaller": lambda masks, backend: mask_resize(masks, (4, 2), backend=backend),
    "mask_resize, larger": lambda masks, backend: mask_resize(masks, 90, backend=backend),
    "mask_patch_embed": embed_patches,
    "mask_patch_embed_": embed_patches_in_place,
    "mask_encode": encode,
}


@pytest.mark.parametrize("width", WIDTHS)
def test_round_trip(backend, width: int) -> None:
    masks = torch.rand(2, 3, 5, width, device=backend.device) > 0.5
    packed = BitMasks.pack(masks, backend=backend.name)
    assert packed.words.shape == (2, 3, 5, (width + 63) // 64)
    assert packed.shape == (2, 3, 5, width)
    assert torch.equal(packed.unpack(backend=backend.name), masks)


def test_bit_order(backend) -> None:
    """Pixel x is bit x % 64 of word x // 64: numpy's little order; the padding stays 0."""
    masks = torch.rand(3, 70) > 0.5
    words = BitMasks.pack(masks.to(backend.device), backend=backend.name).words.cpu()
    padded = np.zeros((3, 128), dtype=bool)
    padded[:, :70] = masks.numpy()
    expected = np.packbits(padded, axis=1, bitorder="little").view("<u8")
    assert np.array_equal(words.numpy().view(np.uint64), expected)


def test_any_value_but_zero_is_inside(backend) -> None:
    masks = torch.tensor([[0, 1, 2, 255]], dtype=torch.uint8, device=backend.device)
    unpacked = BitMasks.pack(masks, backend=backend.name).unpack(backend=backend.name)
    assert unpacked.tolist() == [[False, True, True, True]]


def test_layouts(backend) -> None:
    stored = torch.rand(66, 10, 4, device=backend.device) > 0.5
    masks = stored.permute(2, 1, 0)[::2]
    packed = BitMasks.pack(masks, backend=backend.name)
    assert torch.equal(packed.unpack(backend=backend.name), masks)
    sliced = BitMasks(packed.words[:, ::3], packed.width)
    assert torch.equal(sliced.unpack(backend=backend.name), masks[:, ::3])


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("width", [3, 30, 69])
def test_bits_past_the_width_are_ignored(backend, width: int, operator: str) -> None:
    """They must be 0; where a caller got that wrong, neither memory nor a value is at stake."""
    masks = torch.rand(2, 6, width, device=backend.device) > 0.5
    clean, inside = BitMasks.pack(masks), BitMasks.pack(torch.ones_like(masks))
    noise = torch.randint(-(2**63), 2**63 - 1, clean.words.shape).to(backend.device)
    dirty = BitMasks(clean.words | (noise & ~inside.words), width)

    def run(masks: BitMasks) -> Tensor:
        result = OPERATORS[operator](masks, backend.name)
        return result.words if isinstance(result, BitMasks) else result

    assert torch.equal(run(dirty), run(clean))


def test_opcheck(backend) -> None:
    masks = torch.rand(2, 70, device=backend.device) > 0.5
    torch.library.opcheck(torch.ops.fastregion.pack_bits.default, (masks, backend.name))
    words = BitMasks.pack(masks).words
    torch.library.opcheck(torch.ops.fastregion.unpack_bits.default, (words, 70, backend.name))


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"pack: masks must be bool or uint8, got float32; thresh"):
        BitMasks.pack(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"pack: masks must be \[..., H, W\], got shape \(2,\)"):
        BitMasks.pack(torch.zeros(2, dtype=torch.bool))
    with pytest.raises(TypeError, match="words must be int64, got int32"):
        BitMasks(torch.zeros(2, 1, dtype=torch.int32), 3)
    with pytest.raises(ValueError, match=r"words must be \[..., H, 2\] for a width of 65"):
        BitMasks(torch.zeros(2, 1, dtype=torch.int64), 65)


@pytest.mark.slow
def test_more_than_31_bits(backend) -> None:
    """2.2e9 pixels, of which the last are looked at."""
    if backend.name == "reference" or os.environ.get(simt_module.VARIABLE):
        pytest.skip("would take minutes, or 100 GB")
    width = 64 * 725 - 7
    words = torch.zeros(47500, 725, dtype=torch.int64, device=backend.device)
    assert len(words) * width > 2**31
    words[-3:, -4:] = torch.tensor([-1, 1 << 40, 3, 5], device=backend.device)
    masks = BitMasks(words, width).unpack(backend=backend.name)
    last = BitMasks(words[-3:], width).unpack(backend="reference")
    assert torch.equal(masks[-3:], last)
    assert not masks[:3].any()
    assert torch.equal(BitMasks.pack(masks, backend=backend.name).words, words)
