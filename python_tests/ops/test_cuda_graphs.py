"""Region operators inside of a CUDA graph: captured once, replayed on other data."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastregion.ops import (
    mask_encode,
    mask_patch_embed,
    mask_patch_embed_,
    mask_resize,
    mask_tiles,
    pack_rows,
    roi_align,
    roi_replay,
)

BOXES = torch.tensor([[0.5, 1, 7, 6], [2, 2, 3.5, 8]])
ROIS = torch.cat((torch.tensor([[0.0], [1.0]]), BOXES), dim=1)
ROWS = torch.tensor([6, 0, 3, 3])
KERNEL = torch.randn(5, 1, 4, 4)
ENCODER = [torch.randn(shape) for shape in ((2, 1, 3, 3), 2, (3, 2, 3, 3), 3, (5, 16), 5)]


def replay_in_place(tiles: Tensor, boxes: Tensor, backend: str) -> Tensor:
    buffer = tiles.new_zeros(2, 11, 8)
    roi_replay(tiles, (1, 2), boxes, 3, out=buffer[:, 1:10], backend=backend)
    return buffer


def embed_in_place(tiles: Tensor, kernel: Tensor, backend: str) -> Tensor:
    tokens = kernel.new_zeros(2, 16, 5)
    return mask_patch_embed_(tokens, tiles, kernel, backend=backend)


def floats(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape)


def masks(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(shape) > 0.5


# What makes data, what stays the same, the operator on both and a backend.
OPERATORS = {
    "roi_align": (floats(2, 8, 9, 9), [ROIS], lambda *x, b: roi_align(*x, (3, 2), backend=b)),
    "roi_replay": (
        floats(2, 16, 8),
        [BOXES],
        lambda tiles, boxes, b: roi_replay(tiles, (1, 2), boxes, 3, backend=b),
    ),
    "roi_replay in place": (floats(2, 16, 8), [BOXES], lambda *x, b: replay_in_place(*x, b)),
    "mask_tiles": (masks(2, 20, 70), [], lambda x, b: mask_tiles(x, (2, 2), 16, backend=b).words),
    "mask_resize": (masks(2, 20, 70), [], lambda x, b: mask_resize(x, (9, 11), backend=b)),
    "mask_patch_embed": (masks(2, 16, 16), [KERNEL], lambda *x, b: mask_patch_embed(*x, backend=b)),
    "mask_patch_embed_": (masks(2, 16, 16), [KERNEL], lambda *x, b: embed_in_place(*x, b)),
    "mask_encode": (masks(2, 16, 16), ENCODER, lambda *x, b: mask_encode(*x, backend=b)),
    "pack_rows": (floats(7, 8), [ROWS], lambda x, rows, b: pack_rows([x], rows, backend=b)),
    "pack_rows in place": (
        floats(7, 8),
        [ROWS],
        lambda x, rows, b: pack_rows([x], rows, out=x.new_zeros(4, 8), backend=b),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_cases_run_anywhere(name: str) -> None:
    make, constants, operator = OPERATORS[name]
    data = make()
    result, expected = (operator(data, *constants, b=b) for b in ("", "reference"))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPERATORS)
def test_replay(name: str) -> None:
    make, constants, operator = OPERATORS[name]
    on_gpu, data = [constant.cuda() for constant in constants], make().cuda()
    operator(data, *on_gpu, b="cuda")  # makes the tables of the sizes
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = operator(data, *on_gpu, b="cuda")
    for _ in range(3):
        given = make()
        data.copy_(given)
        graph.replay()
        expected = operator(given, *constants, b="reference")
        torch.testing.assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("operator", [mask_resize, lambda x, n: mask_tiles(x, (1, 1), n)])
def test_a_new_size_is_refused(operator: Callable[[Tensor, int], object]) -> None:
    mask = torch.ones(7, 11, dtype=torch.bool, device="cuda")
    refused = pytest.raises(RuntimeError, match="sizes that are new, while a CUDA graph is")
    with refused, torch.cuda.graph(torch.cuda.CUDAGraph()):
        operator(mask, 13)
    operator(mask, 13)
