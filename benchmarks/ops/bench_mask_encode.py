"""mask_encode, side by side with the layers it replaces.

    pip install ".[bench]"
    pytest benchmarks/ops/bench_mask_encode.py --benchmark-columns=median,iqr

URECA-8B: tiles of 448 x 448, two 3 x 3 convolutions with stride 2 to 8 channels, a linear layer of
112 * 112 = 12544 positions to 4096 channels. One thread; results are compared before they are
timed; allocation of the output included.

Floor: the weight of the linear layer is 205 MB in float32 (103 MB in bfloat16), read once where all
positions count, and where its sums are not at hand; of an ellipse of 4.4 % of a tile 5 % of the
positions count, 10 MB a tile in float32, so 0.3 ms at 40 GB/s. Arithmetic is 8 * 4096 multiply-adds
a position: 411 MFLOP twice over for all of a tile, 41 MFLOP for an ellipse.

Ways: "torch" is the published modules; "fastregion" takes the same parameters; "prepared" has the
weight position-major and its sums at hand, as a model does that keeps its weights.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fastregion.ops import mask_encode

TILE, TOKENS, CHANNELS = 448, 8, 4096
POSITIONS = (TILE // 4) ** 2


def make_tiles(kind: str, count: int) -> Tensor:
    """Grey tiles of 0 and 255; ellipses of 4.4 % that lie elsewhere in every tile."""
    if kind == "noise":
        return (torch.rand(count, TILE, TILE) > 0.5).byte() * 255
    y, x = torch.meshgrid(torch.arange(TILE), torch.arange(TILE), indexing="ij")
    tiles = [
        ((y - 120 - 30 * t) / 60) ** 2 + ((x - 330 + 25 * t) / 47) ** 2 < 1 for t in range(count)
    ]
    return torch.stack(tiles).byte() * 255


def by_torch(tiles: Tensor, parameters: list[Tensor]) -> Tensor:
    conv1, bias1, conv2, bias2, weight, bias = parameters
    planes = tiles[:, None].to(conv1.dtype)
    planes = functional.conv2d(planes, conv1, bias1, stride=2, padding=1).relu()
    planes = functional.conv2d(planes, conv2, bias2, stride=2, padding=1).relu()
    return functional.linear(planes.flatten(2), weight, bias)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def parameters(request: pytest.FixtureRequest) -> list[Tensor]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    shapes = ((TOKENS, 1, 3, 3), TOKENS, (TOKENS, TOKENS, 3, 3), TOKENS)
    values = [0.3 * torch.randn(shape) for shape in shapes]
    values += [0.01 * torch.randn(CHANNELS, POSITIONS), torch.randn(CHANNELS)]
    return [value.to(request.param) for value in values]


@pytest.mark.parametrize("way", ["torch", "fastregion", "prepared"])
@pytest.mark.parametrize("kind", ["ellipse", "noise"])
@pytest.mark.parametrize("count", [1, 5, 7])
def test_forward(benchmark, parameters: list[Tensor], count: int, kind: str, way: str) -> None:
    tiles = make_tiles(kind, count)
    *convolutions, weight, bias = parameters
    position_major = weight.t().contiguous().t()
    sums = weight.sum(1, dtype=torch.float32)

    def prepared() -> Tensor:
        return mask_encode(
            tiles, *convolutions, position_major, bias, weight_sums=sums, backend="cpu"
        )

    calls = {
        "torch": lambda: by_torch(tiles, parameters),
        "fastregion": lambda: mask_encode(tiles, *parameters, backend="cpu"),
        "prepared": prepared,
    }
    expected = by_torch(tiles, [value.float() for value in parameters])
    tolerance = 1e-4 if weight.dtype == torch.float32 else 2e-2
    error = (calls[way]().float() - expected).abs().max()
    assert error <= tolerance * expected.abs().max()
    benchmark.group = f"{count} tiles, {kind}, {weight.dtype}"
    benchmark.pedantic(calls[way], rounds=7, warmup_rounds=1)


@pytest.mark.parametrize("way", ["torch", "fastregion"])
def test_training_step(benchmark, parameters: list[Tensor], way: str) -> None:
    """Forward and backward of 7 tiles: the two products with the whole weight are the same."""
    tiles = make_tiles("ellipse", 7)
    leaves = [value.clone().requires_grad_() for value in parameters]
    grad = torch.randn(7, TOKENS, CHANNELS).to(leaves[0].dtype)

    def step() -> None:
        ours = way == "fastregion"
        out = mask_encode(tiles, *leaves, backend="cpu") if ours else by_torch(tiles, leaves)
        torch.autograd.grad(out, leaves, grad)

    benchmark.group = f"training step, 7 tiles, {leaves[0].dtype}"
    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
