"""roi_replay, side by side with the ways it replaces.

    pip install ".[bench]"
    pytest benchmarks/ops/bench_roi_replay.py --benchmark-columns=median,iqr

Shapes are GAR-1B's: C = 2048, tiles of 16 x 16 tokens, 16 x 16 bins, boxes of 0.5 to 60 % of the
image. One thread; results are compared before they are timed; allocation of the output included.

Floor, float32: the output once (2.1 MB a box) plus the touched cells once (at most 8.4 MB for 2 x 2
tiles, 33.6 MB for 4 x 4), so 19 MB for 5 boxes on 2 x 2 tiles and 142 MB for 64. Arithmetic is 8
multiply-adds a channel and bin, plus 4 for every column of an output row: below 0.1 GFLOP for 5
boxes, so memory decides. The gradient writes the whole map and reads the gradient of the output.

Peers: "published" merges the tiles to one NCHW map in float32 for every box and pools it with
torchvision's RoI-Align, as the released GAR code does; "merged once" pools all boxes in one call;
"grid_sample" does so with what torch itself has. Without torchvision the first two are skipped, and
say so. "out=" is ours into a buffer that is there already, such as a prompt's embeddings: above
32 MiB the pages of a fresh result cost as much as the kernel.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fastregion.ops import roi_replay

CHANNELS, SIDE, BINS = 2048, 16, 16
CASES = [((2, 2), 1), ((2, 2), 5), ((2, 2), 64), ((4, 4), 5), ((4, 4), 64)]
WAYS = ["published", "merged once", "grid_sample", "reference", "fastregion", "out="]


def make_boxes(count: int, height: int, width: int) -> Tensor:
    area = torch.exp(torch.empty(count).uniform_(-5.3, -0.5))
    size = torch.stack((area.sqrt() * width, area.sqrt() * height), 1)
    corner = torch.rand(count, 2) * (torch.tensor([width, height]) - size)
    return torch.cat((corner, corner + size), 1)


def merge(tiles: Tensor, grid: tuple[int, int]) -> Tensor:
    """[T, P, C] tokens as one float32 map [1, C, H, W]."""
    split = tiles.view(*grid, SIDE, SIDE, CHANNELS).permute(4, 0, 2, 1, 3)
    return split.reshape(1, CHANNELS, grid[0] * SIDE, grid[1] * SIDE).float()


def pool_by_grid_sample(features: Tensor, boxes: Tensor) -> Tensor:
    """RoI-Align of boxes inside the map, with what torch itself has: [R, C, BINS, BINS]."""
    height, width = features.shape[2:]
    steps = (torch.arange(2 * BINS) + 0.5) / (2 * BINS)
    x = boxes[:, 0:1] + steps * (boxes[:, 2:3] - boxes[:, 0:1])  # [R, 2 * BINS]
    y = boxes[:, 1:2] + steps * (boxes[:, 3:4] - boxes[:, 1:2])
    shape = (len(boxes), 2 * BINS, 2 * BINS)
    points = torch.stack(
        ((2 * x / width - 1)[:, None].expand(shape), (2 * y / height - 1)[..., None].expand(shape)),
        -1,
    )
    samples = functional.grid_sample(
        features, points.view(1, -1, 2 * BINS, 2), padding_mode="border", align_corners=False
    )
    pooled = functional.avg_pool2d(samples, 2)  # [1, C, R * BINS, BINS]
    return pooled.view(CHANNELS, len(boxes), BINS, BINS).transpose(0, 1)


def pool(features: Tensor, boxes: Tensor) -> Tensor:
    ops = pytest.importorskip("torchvision.ops", exc_type=ImportError)
    result: Tensor = ops.roi_align(features, [boxes], BINS, 1.0, 2, True)
    return result


def run(
    way: str, tiles: Tensor, grid: tuple[int, int], boxes: Tensor, out: Tensor | None = None
) -> Tensor:
    if way == "published":
        each = [pool(merge(tiles, grid), box[None]).flatten(2).transpose(1, 2) for box in boxes]
        return torch.cat(each).to(tiles.dtype)
    if way in ("merged once", "grid_sample"):
        features = merge(tiles, grid)
        function = pool if way == "merged once" else pool_by_grid_sample
        pooled = function(features, boxes)
        return pooled.flatten(2).transpose(1, 2).contiguous().to(tiles.dtype)
    backend = "reference" if way == "reference" else "cpu"
    return roi_replay(tiles, grid, boxes, BINS, out=out, backend=backend)


def make_case(grid: tuple[int, int], count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tiles = torch.randn(grid[0] * grid[1], SIDE * SIDE, CHANNELS).to(dtype)
    return tiles, make_boxes(count, grid[0] * SIDE, grid[1] * SIDE)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("grid", "count"), CASES, ids=str)
def test_forward(
    benchmark, grid: tuple[int, int], count: int, dtype: torch.dtype, way: str
) -> None:
    if count == 64 and way in ("published", "reference"):
        pytest.skip("takes seconds")
    tiles, boxes = make_case(grid, count, dtype)
    exact = run("fastregion", tiles.double(), grid, boxes)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        run(way, tiles, grid, boxes).double(), exact, rtol=tolerance, atol=tolerance
    )
    benchmark.group = f"forward {grid} {count} boxes {dtype}"
    out = torch.empty(count, BINS * BINS, CHANNELS, dtype=dtype) if way == "out=" else None
    benchmark.pedantic(run, (way, tiles, grid, boxes, out), rounds=9, warmup_rounds=1)


@pytest.mark.parametrize("way", ["merged once", "grid_sample", "fastregion"])
@pytest.mark.parametrize(("grid", "count"), [((2, 2), 5), ((4, 4), 5)], ids=str)
def test_backward(benchmark, grid: tuple[int, int], count: int, way: str) -> None:
    tiles, boxes = make_case(grid, count, torch.float32)
    tiles.requires_grad_()
    result = run(way, tiles, grid, boxes)
    grad = torch.randn_like(result)

    def backward() -> None:
        torch.autograd.grad(result, tiles, grad, retain_graph=True)

    benchmark.group = f"backward {grid} {count} boxes float32"
    benchmark.pedantic(backward, rounds=9, warmup_rounds=1)
