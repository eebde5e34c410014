"""roi_replay against a literal loop over RoI-Align's definition, on every backend."""

import math
import os

import numpy as np
import pytest
import simt_module
import torch
from torch import Tensor

from fastregion.ops import roi_replay
from fastregion.ops.roi_replay import roi_replay_backward_reference, roi_replay_reference

# (rows, columns), (tile height, tile width), channels, (oh, ow)
SHAPES = [
    ((1, 1), (1, 1), 1, (1, 1)),
    ((1, 1), (4, 4), 7, (3, 3)),
    ((2, 3), (5, 5), 13, (4, 2)),
    ((3, 1), (6, 5), 64, (8, 6)),
    ((2, 2), (16, 16), 33, (7, 5)),
]


def axis_weights(low: float, high: float, bins: int, cells: int, real: type) -> Tensor:
    """[bins, cells] weights of one axis by the scalar rule, positions rounded to ``real``."""
    weights = torch.zeros(bins, cells, dtype=torch.float64)
    start, size = real(low) - real(0.5), (real(high) - real(low)) / real(bins)
    for i in range(bins):
        for part in (0.25, 0.75):
            point = start + real(i) * size + real(part) * size
            if point < -1 or point > cells:
                continue
            point = max(point, real(0))
            cell = min(int(point), cells - 1)
            following = min(cell + 1, cells - 1)
            fraction = 0.0 if cell == cells - 1 else float(point) - cell
            weights[i, cell] += 0.5 * (1 - fraction)
            weights[i, following] += 0.5 * fraction
    return weights


def merge(tiles: Tensor, grid: tuple[int, int], tile: tuple[int, int]) -> Tensor:
    """[T, P, C] tokens as the map [H, W, C]."""
    split = tiles.reshape(*grid, *tile, tiles.shape[2])
    return split.transpose(1, 2).reshape(grid[0] * tile[0], grid[1] * tile[1], -1)


def eager(tiles: Tensor, grid, boxes: Tensor, output_size, tile) -> Tensor:
    """Merged map times dense weights, everything in the dtype of the tiles."""
    features = merge(tiles, grid, tile)
    real = np.float64 if tiles.dtype == torch.float64 else np.float32
    rows = features.new_zeros(len(boxes), output_size[0], features.shape[0])
    columns = features.new_zeros(len(boxes), output_size[1], features.shape[1])
    for roi, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        rows[roi] = axis_weights(y1, y2, output_size[0], features.shape[0], real)
        columns[roi] = axis_weights(x1, x2, output_size[1], features.shape[1], real)
    reduced = torch.einsum("rih,hwc->riwc", rows, features)
    return torch.einsum("riwc,rjw->rijc", reduced, columns).flatten(1, 2)


def make_boxes(height: int, width: int, count: int = 6) -> Tensor:
    """Boxes inside, across and outside the map; coordinates are exact in every dtype."""
    inside = torch.rand(count, 2, 2).mul(64).round().div(64).sort(dim=1).values
    boxes = (inside * torch.tensor([width, height])).flatten(1).mul(16).round().div(16)
    odd = torch.tensor(
        [
            [0, 0, width, height],  # the whole map
            [-3, -2.5, width + 4.25, height + 2],  # beyond every border
            [0.5 * width, 0.5 * height, 0.5 * width, 0.5 * height],  # no size
            [width, height, 0, 0],  # reversed
            [width + 8, height + 8, width + 9, height + 9],  # all outside
        ]
    )
    return torch.cat((boxes, odd))


@pytest.mark.parametrize(("grid", "tile", "channels", "output_size"), SHAPES)
def test_reference_is_the_definition(grid, tile, channels, output_size) -> None:
    tiles = torch.randn(math.prod(grid), math.prod(tile), channels, dtype=torch.float64)
    boxes = make_boxes(grid[0] * tile[0], grid[1] * tile[1]).double()
    result = roi_replay_reference(tiles, boxes, grid, tile, output_size)
    torch.testing.assert_close(result, eager(tiles, grid, boxes, output_size, tile))


@pytest.mark.parametrize(("grid", "tile", "channels", "output_size"), SHAPES)
def test_forward_and_backward(
    backend, dtype, grid, tile, channels, output_size, assert_no_worse_than_eager
) -> None:
    tiles = torch.randn(math.prod(grid), math.prod(tile), channels).to(backend.device, dtype)
    boxes = make_boxes(grid[0] * tile[0], grid[1] * tile[1]).to(backend.device)
    tiles.requires_grad_()
    result = roi_replay(tiles, grid, boxes, output_size, tile_size=tile, backend=backend.name)
    plain = tiles.detach().clone().requires_grad_()
    expected = eager(plain, grid, boxes, output_size, tile)
    exact_tiles = tiles.detach().double().requires_grad_()
    exact = eager(exact_tiles, grid, boxes, output_size, tile)
    assert_no_worse_than_eager(result, expected, exact)

    grad = torch.randn(result.shape).to(backend.device, dtype)
    result.backward(grad)
    expected.backward(grad)
    exact.backward(grad.double())
    magnitudes = roi_replay_backward_reference(
        grad.abs().double(), boxes.double(), grid, tile, output_size
    )
    assert_no_worse_than_eager(tiles.grad, plain.grad, exact_tiles.grad, magnitudes)


@pytest.mark.parametrize(
    ("num_boxes", "channels"), [(0, 5), (3, 0), (0, 0)], ids=["no boxes", "no channels", "neither"]
)
def test_empty(backend, num_boxes: int, channels: int) -> None:
    tiles = torch.randn(2, 9, channels, device=backend.device, requires_grad=True)
    boxes = torch.rand(num_boxes, 4, device=backend.device)
    result = roi_replay(tiles, (1, 2), boxes, (2, 3), backend=backend.name)
    assert result.shape == (num_boxes, 6, channels)
    result.sum().backward()
    assert tiles.grad.shape == tiles.shape
    assert not tiles.grad.any()


def test_layouts(backend) -> None:
    """Slices, permutations and expanded tensors give the bits of their contiguous copies."""
    stored = torch.randn(5, 3, 9, 4, device=backend.device)
    boxes = torch.rand(4, 8, device=backend.device)[:, ::2] * 6
    for tiles in (
        stored[1:, 0],
        stored[1:, 0, :, ::2],
        stored[:, 0].permute(2, 1, 0),  # channels are apart
        stored[:2, :, :, 0].permute(1, 2, 0),
    ):
        assert not tiles.is_contiguous()
        grid = (1, tiles.shape[0])
        result = roi_replay(tiles, grid, boxes, (3, 2), backend=backend.name)
        same = roi_replay(
            tiles.contiguous(), grid, boxes.contiguous(), (3, 2), backend=backend.name
        )
        assert torch.equal(result, same)
    one = torch.randn(1, 9, 8, device=backend.device).requires_grad_()
    result = roi_replay(one, (1, 1), boxes, (2, 2), backend=backend.name)
    result.sum().backward()  # the gradient of a sum is an expanded tensor of stride 0
    dense = roi_replay_backward_reference(torch.ones_like(result), boxes, (1, 1), (3, 3), (2, 2))
    torch.testing.assert_close(one.grad, dense)


@pytest.mark.parametrize("channels", [1, 16, 19])
def test_out(backend, dtype, channels: int) -> None:
    """Into slices of a larger buffer, whose other rows stay as they are."""
    tiles = torch.randn(4, 16, channels).to(backend.device, dtype)
    boxes = make_boxes(8, 8).to(backend.device)
    expected = roi_replay(tiles, (2, 2), boxes, (3, 2), backend=backend.name)
    buffer = torch.full((len(boxes), 10, channels + 5), 7.0).to(backend.device, dtype)
    wanted = buffer.clone()
    wanted[:, 2:8, 3:-2] = expected
    out = buffer[:, 2:8, 3:-2]
    version = buffer._version
    assert roi_replay(tiles, (2, 2), boxes, (3, 2), out=out, backend=backend.name) is out
    assert torch.equal(buffer, wanted)
    assert buffer._version > version
    rows = torch.empty(2 * 6, channels).to(backend.device, dtype)
    with torch.inference_mode():
        roi_replay(
            tiles, (2, 2), boxes[:2], (3, 2), out=rows.view(2, 6, channels), backend=backend.name
        )
    assert torch.equal(rows.view(2, 6, channels), expected[:2])


def test_out_opcheck_and_compile(backend) -> None:
    tiles = torch.randn(2, 9, 3, device=backend.device)
    boxes = torch.rand(4, 4, device=backend.device) * 6
    settings = ([1, 2], [3, 3], [2, 2], backend.name)
    buffer = torch.zeros(4, 7, 3, device=backend.device)
    torch.library.opcheck(
        torch.ops.fastregion.roi_replay_out.default, (buffer[:, 1:5], tiles, boxes, *settings)
    )

    def run(tiles: Tensor, buffer: Tensor) -> Tensor:
        roi_replay(tiles, (1, 2), boxes, 2, out=buffer[:, 1:5], backend=backend.name)
        return buffer * 2

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tiles, torch.zeros_like(buffer)), run(tiles, buffer))


@pytest.mark.slow
@pytest.mark.parametrize("large", ["tokens", "bins"])
def test_more_than_31_bits(backend, large: str) -> None:
    """Offsets into 2.2e9 elements: rows far apart, so that little memory is ever touched."""
    if backend.name == "reference":
        pytest.skip("it would copy the rows")
    stride = 2_200_000_000 // 15
    stored = torch.empty(15 * stride + 8, dtype=torch.bfloat16, device=backend.device)
    far = stored.as_strided((1, 16, 8), (16 * stride, stride, 1))
    boxes = torch.tensor([[0.0, 0, 4, 4]], device=backend.device)
    tokens = torch.randn(1, 16, 8).to(backend.device, torch.bfloat16)
    expected = roi_replay(tokens, (1, 1), boxes, 4, backend=backend.name)
    if large == "tokens":
        result = roi_replay(far.copy_(tokens), (1, 1), boxes, 4, backend=backend.name)
    else:
        result = roi_replay(tokens, (1, 1), boxes, 4, out=far, backend=backend.name)
    assert torch.equal(result, expected)


def test_same_bits_twice(backend) -> None:
    tiles = torch.randn(4, 16, 19, device=backend.device)
    boxes = make_boxes(8, 8).to(backend.device)
    first, second = (
        roi_replay(tiles, (2, 2), boxes, (5, 5), backend=backend.name) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_gradcheck(backend) -> None:
    if backend.name == "cuda":
        pytest.skip("checked through float32 against the reference")
    tiles = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.2, 0.4, 5.1, 2.2], [-2, -2, 7, 4], [1, 1, 1, 1]]).double()

    def run(tiles: Tensor) -> Tensor:
        return roi_replay(tiles, (1, 2), boxes, (2, 3), backend=backend.name)

    assert torch.autograd.gradcheck(run, tiles)
    assert torch.autograd.gradgradcheck(run, tiles)


def test_opcheck(backend) -> None:
    tiles = torch.randn(2, 9, 3, device=backend.device, requires_grad=True)
    boxes = torch.rand(4, 4, device=backend.device) * 6
    settings = ([1, 2], [3, 3], [2, 2], backend.name)
    torch.library.opcheck(torch.ops.fastregion.roi_replay.default, (tiles, boxes, *settings))
    grad = torch.randn(4, 4, 3, device=backend.device, requires_grad=True)
    torch.library.opcheck(
        torch.ops.fastregion.roi_replay_backward.default, (grad, boxes, *settings)
    )


def test_compiles_as_one_graph(backend) -> None:
    def run(tiles: Tensor, boxes: Tensor) -> Tensor:
        return roi_replay(tiles * 2, (1, 2), boxes, (2, 2), backend=backend.name).sum(1)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for num_boxes in (3, 5):
        tiles = torch.randn(2, 9, 3, device=backend.device, requires_grad=True)
        again = tiles.detach().clone().requires_grad_()
        boxes = torch.rand(num_boxes, 4, device=backend.device) * 3
        torch.testing.assert_close(compiled(tiles, boxes), run(again, boxes))
        compiled(tiles, boxes).sum().backward()
        run(again, boxes).sum().backward()
        torch.testing.assert_close(tiles.grad, again.grad)


def test_integers_of_numpy() -> None:
    tiles, boxes, two = torch.randn(2, 4, 3), torch.rand(2, 4) * 3, np.int64(2)
    result = roi_replay(tiles, (np.int32(1), two), boxes, two, tile_size=two)
    assert torch.equal(result, roi_replay(tiles, (1, 2), boxes, 2))


def test_autocast_changes_nothing() -> None:
    tiles, boxes = torch.randn(1, 9, 3), torch.rand(2, 4) * 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = roi_replay(tiles, (1, 1), boxes, (2, 2))
    assert result.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"tiles": torch.zeros(2, 9)},
            ValueError,
            r"tiles must be \[T, P, C\], got shape \(2, 9\)",
        ),
        (
            {"tiles": torch.zeros(2, 9, 3, dtype=torch.int32)},
            TypeError,
            "tiles must be .* got int32",
        ),
        ({"boxes": torch.zeros(3, 5)}, ValueError, r"boxes must be \[R, 4\] .* got shape \(3, 5\)"),
        ({"boxes": torch.zeros(3, 4).int()}, TypeError, "boxes must be .* got int32"),
        ({"boxes": torch.zeros(3, 4, device="meta")}, ValueError, "same device, got cpu and meta"),
        ({"grid": (2, 2)}, ValueError, "grid 2 x 2 needs 4 tiles, got 2; leave the thumbnail out"),
        ({"grid": (0, 2)}, ValueError, r"grid must be two integers of at least 1, got \(0, 2\)"),
        ({"grid": 2}, ValueError, "grid must be two integers of at least 1, got 2"),
        ({"output_size": (0, 1)}, ValueError, "output_size must be two integers of at least 1"),
        ({"output_size": (True, 1)}, ValueError, r"two integers of at least 1, got \(True, 1\)"),
        ({"output_size": (2.0, 1)}, ValueError, "output_size must be two integers of at least 1"),
        ({"tiles": torch.zeros(2, 8, 3)}, ValueError, "3 x 3 has 9 tokens, got 8; give tile_size"),
        ({"tile_size": (4, 2)}, ValueError, "4 x 2 has 8 tokens, got 9"),
        (
            {"boxes": torch.tensor([[0, 0, 1, 1], [0, math.nan, 1, 1]])},
            ValueError,
            "finite.* row 1",
        ),
        ({"boxes": torch.tensor([[0, 0, math.inf, 1]])}, ValueError, "finite, got .* in row 0"),
        ({"out": torch.zeros(3, 4, 3).half()}, TypeError, "out and tiles must have the same dtype"),
        ({"out": torch.zeros(3, 4, 3, device="meta")}, ValueError, "same device, got meta and cpu"),
        ({"out": torch.zeros(3, 4, 4)}, ValueError, r"out must be \[3, 4, 3\], got shape"),
        (
            {"out": torch.zeros(3, 4, 6)[..., ::2]},
            ValueError,
            r"contiguous channels and rows apart .* got strides \(24, 6, 2\)",
        ),
        ({"out": torch.zeros(3, 1, 3).expand(3, 4, 3)}, ValueError, "rows apart from each other"),
        (  # bins of one box fall on those of the next
            {"out": torch.zeros(30).as_strided((3, 4, 3), (3, 3, 1))},
            ValueError,
            r"rows apart from each other, got strides \(3, 3, 1\)",
        ),
        (
            {"out": torch.zeros(60).as_strided((3, 4, 3), (11, 3, 1))},
            ValueError,
            r"rows apart from each other, got strides \(11, 3, 1\)",
        ),
        (
            {"out": torch.zeros(3, 4, 3), "tiles": torch.zeros(2, 9, 3, requires_grad=True)},
            ValueError,
            "out is for inference, but tiles requires a gradient; leave it out",
        ),
        ({"backend": "gpu"}, ValueError, "backend must be auto, reference, cpu or cuda, got 'gpu'"),
    ],
)
def test_errors(changes: dict, error: type[Exception], message: str) -> None:
    if "finite" in message and os.environ.get(simt_module.VARIABLE):
        pytest.skip("a CUDA kernel gives zeros: reading values back would synchronise")
    arguments = {
        "tiles": torch.zeros(2, 9, 3),
        "grid": (1, 2),
        "boxes": torch.zeros(3, 4),
        "output_size": (2, 2),
    } | changes
    with pytest.raises(error, match=f"^roi_replay: .*{message}"):
        roi_replay(**arguments)
