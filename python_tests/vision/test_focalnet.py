"""FocalNet: its formula place by place, odd sizes, and what is left out in training."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fastregion.vision.focalnet import FocalModulation, FocalNet, FocalNetConfig

SMALL = FocalNetConfig(
    embed_dim=8, depths=(1, 2, 1, 1), focal_levels=(2, 3, 1, 2), focal_windows=(3, 3, 5, 3)
)


def test_modulation_is_the_formula() -> None:
    modulation = FocalModulation(6, 2, 3).double()
    x = torch.randn(2, 7, 5, 6, dtype=torch.double)
    q, context, gates = modulation.f(x).split([6, 6, 3], -1)
    gathered = torch.zeros_like(q)
    for level, kernel in enumerate((3, 5)):
        weight = modulation.focal_layers[level][0].weight  # [C, 1, k, k]
        assert weight.shape[-1] == kernel
        half = kernel // 2
        padded = F.pad(context, (0, 0, half, half, half, half))
        moved = torch.zeros_like(context)
        for i in range(kernel):
            for j in range(kernel):
                moved += padded[:, i : i + 7, j : j + 5] * weight[:, 0, i, j]
        context = F.gelu(moved)
        gathered += context * gates[..., level, None]
    gathered += F.gelu(context.mean((1, 2), keepdim=True)) * gates[..., 2, None]
    modulator = (gathered / 3) @ modulation.h.weight[:, :, 0, 0].t() + modulation.h.bias
    torch.testing.assert_close(modulation(x), modulation.proj(q * modulator))


@pytest.mark.parametrize("size", [(64, 96), (33, 41), (5, 4)])
def test_strides_round_up(size: tuple[int, int]) -> None:
    features = FocalNet(SMALL).eval()(torch.randn(2, 3, *size))
    expected = [-(-side // 4) for side in size]
    for feature, channels in zip(features, SMALL.channels, strict=True):
        assert feature.shape == (2, channels, *expected)
        expected = [-(-side // 2) for side in expected]


def test_branches_are_left_out_in_training() -> None:
    torch.manual_seed(0)
    network = FocalNet(SMALL)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "gamma" in name:
                parameter.fill_(1.0)
    rates = [block.drop_path for stage in network.layers for block in stage.blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0, 0.075, 0.15, 0.225, 0.3])
    pixels = torch.randn(4, 3, 32, 32)
    first, second = network(pixels)[-1], network(pixels)[-1]
    assert not torch.allclose(first, second)
    network.eval()
    assert torch.equal(network(pixels)[-1], network(pixels)[-1])
    # On average nothing changes.
    block = network.layers[3].blocks[0].train()  # type: ignore[index,union-attr]
    x = torch.ones(20000, 1, 1, 1)
    assert block._drop(x).mean() == pytest.approx(1, abs=0.03)
    assert sorted(set(block._drop(x).flatten().tolist())) == pytest.approx([0, 1 / 0.7])


def test_pictures_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"pixel_values: must be \[B, 3, H, W\]"):
        FocalNet(SMALL)(torch.zeros(3, 32, 32))
