"""The bit-packed container: layout, round trips, refusals."""

import os

import numpy as np
import pytest
import simt_module
import torch

from fastregion.ops import BitMasks

WIDTHS = [0, 1, 7, 63, 64, 65, 130]


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
