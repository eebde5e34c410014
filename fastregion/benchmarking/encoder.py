"""URECA's mask encoder.

Tiles of 448 x 448, two 3 x 3 convolutions with stride 2 to 8 channels, a linear layer of
112 * 112 = 12544 positions to 4096 channels. Floor: the linear weight is 205 MB in float32, read
once where all positions count; of an ellipse of 4.4 % of a tile 5 % of the positions count, 10 MB
a tile. Arithmetic is 8 * 4096 multiply-adds a position that counts.

Peer: "torch" is the published layers. Ours has the weight position-major and its sums at hand, as a
model does that keeps its weights; "unprepared" takes the parameters as they are.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from fastregion.benchmarking.measure import Case, Ways
from fastregion.ops import mask_encode

_TILE, _TOKENS, _CHANNELS = 448, 8, 4096
_POSITIONS = (_TILE // 4) ** 2


def _tiles(kind: str, count: int) -> Tensor:
    """Grey tiles of 0 and 255; ellipses of 4.4 % that lie elsewhere in every tile."""
    if kind == "noise":
        return (torch.rand(count, _TILE, _TILE) > 0.5).byte() * 255
    y, x = torch.arange(_TILE)[:, None], torch.arange(_TILE)[None, :]
    tiles = [
        ((y - 120 - 30 * t) / 60) ** 2 + ((x - 330 + 25 * t) / 47) ** 2 < 1 for t in range(count)
    ]
    return torch.stack(tiles).byte() * 255


def _by_torch(tiles: Tensor, parameters: list[Tensor]) -> Tensor:
    conv1, bias1, conv2, bias2, weight, bias = parameters
    planes = tiles[:, None].to(conv1.dtype)
    planes = functional.conv2d(planes, conv1, bias1, stride=2, padding=1).relu()
    planes = functional.conv2d(planes, conv2, bias2, stride=2, padding=1).relu()
    return functional.linear(planes.flatten(2), weight, bias)


def _make(count: int, kind: str, dtype: torch.dtype, device: torch.device) -> Ways:
    torch.manual_seed(0)
    shapes = ((_TOKENS, 1, 3, 3), _TOKENS, (_TOKENS, _TOKENS, 3, 3), _TOKENS)
    values = [0.3 * torch.randn(shape) for shape in shapes]
    values += [0.01 * torch.randn(_CHANNELS, _POSITIONS), torch.randn(_CHANNELS)]
    parameters = [value.to(device, dtype) for value in values]
    tiles = _tiles(kind, count).to(device)
    conv1, bias1, conv2, bias2, weight, bias = parameters
    position_major = weight.t().contiguous().t()
    sums = weight.sum(1, dtype=torch.float32)

    def prepared() -> Tensor:
        return mask_encode(
            tiles, conv1, bias1, conv2, bias2, position_major, bias, weight_sums=sums
        )

    return Ways(
        ours=prepared,
        peers={
            "torch": lambda: _by_torch(tiles, parameters),
            "unprepared": lambda: mask_encode(tiles, conv1, bias1, conv2, bias2, weight, bias),
        },
        bytes=round(weight.numel() * weight.element_size() * (1 if kind == "noise" else 0.05)),
        tolerance=1e-5 if dtype == torch.float32 else 2e-2,
    )


CASES = tuple(
    Case(
        operator="mask_encode",
        shape=f"{count} tile{'s' if count > 1 else ''} of {_TILE} x {_TILE}, {kind}",
        dtype=str(dtype).removeprefix("torch."),
        make=partial(_make, count, kind, dtype),
    )
    for count in (1, 5, 7)
    for kind in ("ellipse", "noise")
    for dtype in (torch.float32, torch.bfloat16)
)
