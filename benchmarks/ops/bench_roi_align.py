"""roi_align, side by side with torchvision's and with our reference in plain torch.

    pip install ".[bench]" torchvision
    pytest benchmarks/ops/bench_roi_align.py --benchmark-columns=median,iqr

Detector heads: C = 256, 7 x 7 bins, 64 boxes of 0.5 to 60 % of the image (or 1, or 512 over two
images). One thread; results are compared before they are timed; allocation of the output included.
Without torchvision its rows are skipped, and say so.

Floor, float32: the cells that are read once plus the bins once: 2.6 MB of a 50 x 50 map and 3.2 MB
for 64 boxes, 0.6 ms at 10 GB/s; 56 MB of a 200 x 272 map. Arithmetic, separable, with 2 x 2
samples: at most 4 multiply-adds a bin and 4 for every column that an output row reads, in vectors,
where torchvision does 16 a bin with scalars; adaptive sampling reads every cell of the box.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastregion.ops import roi_align

CHANNELS, BINS, SCALE = 256, 7, 0.25
WAYS = ["torchvision", "reference", "fastregion"]
# images, height, width, boxes, sampling ratio, memory format, dtype
CASES = [
    (1, 50, 50, 64, 2, "planes", torch.float32),
    (1, 50, 50, 64, 2, "channels last", torch.float32),
    (1, 50, 50, 64, 2, "planes", torch.float16),
    (1, 50, 50, 64, -1, "planes", torch.float32),
    (1, 50, 50, 1, 2, "planes", torch.float32),
    (2, 50, 50, 512, 2, "planes", torch.float32),
    (1, 14, 14, 64, 2, "planes", torch.float32),
    (1, 200, 272, 64, 2, "planes", torch.float32),
]


def make_case(num_images, height, width, count, layout, dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    size = torch.tensor([width, height]) / SCALE
    area = torch.exp(torch.empty(count, 1).uniform_(-5.3, -0.5))
    extent = area.sqrt() * size
    corner = torch.rand(count, 2) * (size - extent)
    numbers = torch.randint(num_images, (count, 1))
    input = torch.randn(num_images, CHANNELS, height, width).to(dtype)
    if layout == "channels last":
        input = input.contiguous(memory_format=torch.channels_last)
    return input, torch.cat((numbers, corner, corner + extent), 1).to(dtype)


def run(way: str, input: Tensor, rois: Tensor, ratio: int) -> Tensor:
    settings = (BINS, SCALE, ratio, True)
    if way == "torchvision":
        ops = pytest.importorskip("torchvision.ops", exc_type=ImportError)
        result: Tensor = ops.roi_align(input, rois, *settings)
        return result
    return roi_align(input, rois, *settings, backend="cpu" if way == "fastregion" else way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(benchmark, case: tuple, way: str) -> None:
    *shape, ratio, layout, dtype = case
    input, rois = make_case(*shape, layout, dtype)
    result = run(way, input, rois, ratio)
    if dtype == torch.float32:  # torchvision places samples in float16, elsewhere
        exact = run("fastregion", input, rois, ratio)
        torch.testing.assert_close(result, exact, rtol=1e-4, atol=1e-4)
    benchmark.group = f"forward {case}"
    benchmark.pedantic(run, (way, input, rois, ratio), rounds=9, warmup_rounds=1)


@pytest.mark.parametrize("way", ["torchvision", "fastregion"])
@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[7]], ids=str)
def test_backward(benchmark, case: tuple, way: str) -> None:
    *shape, ratio, layout, dtype = case
    input, rois = make_case(*shape, layout, dtype)
    input.requires_grad_()
    result = run(way, input, rois, ratio)
    grad = torch.randn_like(result)

    def backward() -> None:
        torch.autograd.grad(result, input, grad, retain_graph=True)

    benchmark.group = f"backward {case}"
    benchmark.pedantic(backward, rounds=5, warmup_rounds=1)
