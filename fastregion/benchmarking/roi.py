"""RoI-Align and its replay on tiles.

Shapes of the replay are GAR-1B's: C = 2048, tiles of 16 x 16 tokens, 16 x 16 bins, boxes of 0.5 to
60 % of the image. Floor: the output once (2.1 MB a box in float32) plus the touched cells once
(here: all, 8.4 MB for 2 x 2 tiles, 33.6 MB for 4 x 4). Arithmetic is 8 multiply-adds a channel and
bin, plus 4 for every column of an output row, below 0.1 GFLOP for 5 boxes: memory decides. The
gradient writes the whole map and reads the gradient of the output.

Shapes of the drop-in are those of detectors' heads: C = 256, 7 x 7 bins, one box or 64, at a
quarter of the picture's resolution. Floor: the cells that are read once plus the bins once: 2.6 MB
of a 50 x 50 map and 3.2 MB for 64 boxes.

Peers: "published" merges the tiles to one NCHW map in float32 for every box and pools it, as the
released GAR code does; "merged once" pools all boxes in one call. Pooling is RoI-Align of
torchvision where that is installed, and ``grid_sample`` plus averaging otherwise. "torchvision"
is one call of its operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from fastregion.benchmarking.measure import Call, Case, Ways
from fastregion.benchmarking.peers import torchvision_ops
from fastregion.ops import roi_align, roi_replay

_CHANNELS, _SIDE, _BINS = 2048, 16, 16


def _boxes(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """Boxes of 0.5 to 60 % of a map, log-uniform, ``[count, 4]``."""
    area = torch.exp(torch.empty(count).uniform_(-5.3, -0.5))
    size = torch.stack((area.sqrt() * width, area.sqrt() * height), 1)
    corner = torch.rand(count, 2) * (torch.tensor([width, height]) - size)
    return torch.cat((corner, corner + size), 1).to(device)


def _merge(tiles: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[T, P, C]`` tokens as one float32 map ``[1, C, H, W]``."""
    split = tiles.view(*grid, _SIDE, _SIDE, _CHANNELS).permute(4, 0, 2, 1, 3)
    return split.reshape(1, _CHANNELS, grid[0] * _SIDE, grid[1] * _SIDE).float()


def _pool_by_grid_sample(features: Tensor, boxes: Tensor) -> Tensor:
    """RoI-Align of boxes inside the map, with what torch itself has: ``[R, C, 16, 16]``."""
    height, width = features.shape[2:]
    steps = (torch.arange(2 * _BINS, device=boxes.device) + 0.5) / (2 * _BINS)
    x = boxes[:, 0:1] + steps * (boxes[:, 2:3] - boxes[:, 0:1])  # [R, 2 * 16]
    y = boxes[:, 1:2] + steps * (boxes[:, 3:4] - boxes[:, 1:2])
    shape = (len(boxes), 2 * _BINS, 2 * _BINS)
    points = torch.stack(
        ((2 * x / width - 1)[:, None].expand(shape), (2 * y / height - 1)[..., None].expand(shape)),
        -1,
    )
    samples = functional.grid_sample(
        features, points.view(1, -1, 2 * _BINS, 2), padding_mode="border", align_corners=False
    )
    pooled = functional.avg_pool2d(samples, 2)  # [1, C, R * 16, 16]
    return pooled.view(_CHANNELS, len(boxes), _BINS, _BINS).transpose(0, 1)


def _pool(features: Tensor, boxes: Tensor) -> Tensor:
    torchvision = torchvision_ops()
    if torchvision is None:
        return _pool_by_grid_sample(features, boxes)
    pooled: Tensor = torchvision.roi_align(features, [boxes], _BINS, 1.0, 2, True)
    return pooled


def _published(tiles: Tensor, grid: tuple[int, int], boxes: Tensor) -> Tensor:
    each = [_pool(_merge(tiles, grid), box[None]).flatten(2).transpose(1, 2) for box in boxes]
    return torch.cat(each).to(tiles.dtype)


def _merged_once(tiles: Tensor, grid: tuple[int, int], boxes: Tensor) -> Tensor:
    pooled = _pool(_merge(tiles, grid), boxes)
    return pooled.flatten(2).transpose(1, 2).contiguous().to(tiles.dtype)


def _replay_data(
    grid: tuple[int, int], count: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """Tiles, boxes, and the bytes of map and output."""
    torch.manual_seed(0)
    tiles = torch.randn(grid[0] * grid[1], _SIDE * _SIDE, _CHANNELS).to(device, dtype)
    boxes = _boxes(count, grid[0] * _SIDE, grid[1] * _SIDE, device)
    rows = tiles.shape[0] * tiles.shape[1] + count * _BINS * _BINS
    return tiles, boxes, rows * _CHANNELS * tiles.element_size()


def _make_replay(
    grid: tuple[int, int], count: int, dtype: torch.dtype, device: torch.device
) -> Ways:
    tiles, boxes, size = _replay_data(grid, count, dtype, device)
    peers = {"merged once": lambda: _merged_once(tiles, grid, boxes)}
    if count < 64:  # takes seconds there
        peers["published"] = lambda: _published(tiles, grid, boxes)
    return Ways(
        ours=lambda: roi_replay(tiles, grid, boxes, _BINS),
        peers=peers,
        bytes=size,
        tolerance=2e-5 if dtype == torch.float32 else 1e-2,
    )


def _make_replay_gradient(grid: tuple[int, int], count: int, device: torch.device) -> Ways:
    tiles, boxes, size = _replay_data(grid, count, torch.float32, device)
    tiles.requires_grad_()
    ours, merged = roi_replay(tiles, grid, boxes, _BINS), _merged_once(tiles, grid, boxes)
    grad = torch.randn_like(ours)

    def gradient(result: Tensor) -> Tensor:
        return torch.autograd.grad(result, tiles, grad, retain_graph=True)[0]

    return Ways(
        ours=lambda: gradient(ours),
        peers={"merged once": lambda: gradient(merged)},
        bytes=size,
        tolerance=2e-5,
    )


def _make_buffered_replay(
    grid: tuple[int, int], count: int, dtype: torch.dtype, device: torch.device
) -> Ways:
    """Into rows that are there already, such as a prompt's embeddings."""
    tiles, boxes, size = _replay_data(grid, count, dtype, device)
    out = tiles.new_empty((count, _BINS * _BINS, _CHANNELS))
    return Ways(
        ours=lambda: roi_replay(tiles, grid, boxes, _BINS, out=out),
        peers={"merged once": lambda: _merged_once(tiles, grid, boxes)},
        bytes=size,
        tolerance=2e-5 if dtype == torch.float32 else 1e-2,
    )


_ALIGN_CHANNELS, _ALIGN_BINS, _ALIGN_SCALE = 256, 7, 0.25


@dataclass(frozen=True, kw_only=True)
class _AlignShape:
    """A map, boxes on it, and how they are sampled."""

    side: int = 50
    count: int = 64
    ratio: int = 2
    channels_last: bool = False
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        layout = "NHWC" if self.channels_last else "NCHW"
        ratio = "adaptive" if self.ratio <= 0 else f"{self.ratio} x {self.ratio}"
        boxes = "1 box" if self.count == 1 else f"{self.count} boxes"
        return f"{_ALIGN_CHANNELS} x {self.side} x {self.side} {layout}, {boxes}, 7 x 7, {ratio}"


def _align_data(shape: _AlignShape, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Map, boxes with batch index, and the bytes of map and output."""
    torch.manual_seed(0)
    side = round(shape.side / _ALIGN_SCALE)
    boxes = _boxes(shape.count, side, side, device)
    boxes = torch.cat((boxes.new_zeros(shape.count, 1), boxes), 1).to(shape.dtype)
    layout = torch.channels_last if shape.channels_last else torch.contiguous_format
    features = torch.randn(1, _ALIGN_CHANNELS, shape.side, shape.side).to(device, shape.dtype)
    features = features.contiguous(memory_format=layout)
    cells = shape.side**2 + shape.count * _ALIGN_BINS**2
    return features, boxes, cells * _ALIGN_CHANNELS * features.element_size()


def _make_align(shape: _AlignShape, device: torch.device) -> Ways:
    features, boxes, size = _align_data(shape, device)
    torchvision = torchvision_ops()
    settings = (_ALIGN_BINS, _ALIGN_SCALE, shape.ratio, True)
    peers: dict[str, Call] = {}
    if torchvision is not None:
        peers["torchvision"] = lambda: torchvision.roi_align(features, boxes, *settings)
    return Ways(
        ours=lambda: roi_align(features, boxes, *settings), peers=peers, bytes=size, tolerance=2e-5
    )


def _make_align_gradient(shape: _AlignShape, device: torch.device) -> Ways:
    features, boxes, size = _align_data(shape, device)
    features.requires_grad_()
    torchvision = torchvision_ops()
    settings = (_ALIGN_BINS, _ALIGN_SCALE, shape.ratio, True)
    ours = roi_align(features, boxes, *settings)
    grad = torch.randn_like(ours)

    def gradient(result: Tensor) -> Tensor:
        return torch.autograd.grad(result, features, grad, retain_graph=True)[0]

    peers: dict[str, Call] = {}
    if torchvision is not None:
        theirs = torchvision.roi_align(features, boxes, *settings)
        peers["torchvision"] = lambda: gradient(theirs)
    return Ways(ours=lambda: gradient(ours), peers=peers, bytes=size, tolerance=2e-5)


_ALIGN_SHAPES = (
    _AlignShape(),
    _AlignShape(channels_last=True),
    _AlignShape(ratio=-1),
    _AlignShape(count=1),
    _AlignShape(side=200),
)


def _tiles(grid: tuple[int, int], count: int) -> str:
    return f"{grid[0]} x {grid[1]} tiles, {count} box{'es' if count > 1 else ''}"


CASES = (
    *(
        Case(
            operator="roi_replay",
            shape=_tiles(grid, count),
            dtype=str(dtype).removeprefix("torch."),
            make=partial(_make_replay, grid, count, dtype),
        )
        for grid, count in (((2, 2), 1), ((2, 2), 5), ((2, 2), 64), ((4, 4), 5), ((4, 4), 64))
        for dtype in (torch.float32, torch.bfloat16)
    ),
    *(
        Case(
            operator="roi_replay gradient",
            shape=_tiles(grid, count),
            dtype="float32",
            make=partial(_make_replay_gradient, grid, count),
        )
        for grid, count in (((2, 2), 5), ((4, 4), 5))
    ),
    *(
        Case(
            operator="roi_replay into a buffer",
            shape=_tiles(grid, 64),
            dtype="float32",
            make=partial(_make_buffered_replay, grid, 64, torch.float32),
        )
        for grid in ((2, 2), (4, 4))
    ),
    *(
        Case(
            operator="roi_align",
            shape=str(shape),
            dtype=str(shape.dtype).removeprefix("torch."),
            make=partial(_make_align, shape),
        )
        for shape in _ALIGN_SHAPES
    ),
    *(
        Case(
            operator="roi_align gradient",
            shape=str(shape),
            dtype=str(shape.dtype).removeprefix("torch."),
            make=partial(_make_align_gradient, shape),
        )
        for shape in _ALIGN_SHAPES[:3]
    ),
)
