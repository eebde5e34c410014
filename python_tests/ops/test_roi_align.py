"""roi_align against a literal loop over RoI-Align's definition, on every backend."""

import math
import os

import numpy as np
import pytest
import simt_module
import torch
from torch import Tensor, nn

from fastregion.ops import RoIAlign, roi_align
from fastregion.ops.roi_align import roi_align_backward_reference

# input [N, C, H, W], (oh, ow), spatial_scale, sampling_ratio, aligned
CASES = [
    ((1, 1, 1, 1), (1, 1), 1.0, 1, True),
    ((2, 3, 5, 7), (3, 2), 1.0, 2, False),
    ((2, 17, 16, 15), (4, 5), 0.5, -1, True),
    ((1, 70, 17, 19), (7, 7), 0.25, 0, False),
    ((3, 16, 9, 33), (5, 16), 1.0, 3, True),
]
LAYOUTS = ["planes", "channels last", "slice of planes", "slice of channels last", "transposed"]


def make_input(size: tuple[int, ...], layout: str = "planes") -> Tensor:
    num, channels, height, width = size
    if layout == "channels last":
        return torch.randn(num, height, width, channels).permute(0, 3, 1, 2)
    if layout == "slice of planes":
        return torch.randn(num, channels + 2, height + 2, width + 1)[:, 1:-1, 1:-1, 1:]
    if layout == "slice of channels last":
        stored = torch.randn(num, height + 1, width + 2, channels + 4)
        return stored.permute(0, 3, 1, 2)[:, 2:-2, 1:, 1:-1]
    if layout == "transposed":
        return torch.randn(num, channels, width, height).transpose(2, 3)
    return torch.randn(size)


def make_rois(num: int, height: int, width: int, scale: float, count: int = 6) -> Tensor:
    """Boxes inside, across and outside of the map; coordinates are exact in every dtype."""
    inside = torch.rand(count, 2, 2).mul(64).round().div(64).sort(dim=1).values
    boxes = (inside * torch.tensor([width, height])).flatten(1).mul(8).round().div(8)
    odd = torch.tensor(
        [
            [0, 0, width, height],  # the whole map
            [-3, -2.5, width + 4.25, height + 2],  # beyond every border
            [0.5 * width, 0.5 * height, 0.5 * width, 0.5 * height],  # no size
            [width, height, 0, 0],  # reversed
            [width + 8, height + 8, width + 9, height + 9],  # all outside
        ]
    )
    rois = torch.cat((boxes, odd)) / scale
    return torch.cat((torch.randint(num, (len(rois), 1)), rois), dim=1)


def axis_weights(low, high, scale, bins, cells, ratio, aligned) -> Tensor:
    """[bins, cells] weights of one axis by the scalar rule, positions rounded to float32."""
    one = torch.tensor(1.0)
    start = low * one * scale - (0.5 if aligned else 0.0)
    size = high * one * scale - (0.5 if aligned else 0.0) - start
    size = size if aligned else size.clamp(min=1)
    samples = ratio if ratio > 0 else max(math.ceil(size / bins), 0)
    weights = torch.zeros(bins, cells, dtype=torch.float64)
    for i in range(bins):
        for number in range(samples):
            point = float(start + i * (size / bins) + (number + 0.5) * (size / bins) / samples)
            if point < -1 or point > cells:
                continue
            point = max(point, 0.0)
            cell = min(int(point), cells - 1)
            fraction = 0.0 if cell == cells - 1 else point - cell
            weights[i, cell] += (1 - fraction) / samples
            weights[i, min(cell + 1, cells - 1)] += fraction / samples
    return weights


def eager(input, rois, output_size, scale=1.0, ratio=-1, aligned=False) -> Tensor:
    """Map times dense weights, everything in the dtype of the input."""
    height, width = input.shape[2:]
    pooled = []
    for image, x1, y1, x2, y2 in rois.tolist():
        rows = axis_weights(y1, y2, scale, output_size[0], height, ratio, aligned)
        columns = axis_weights(x1, x2, scale, output_size[1], width, ratio, aligned)
        rows, columns = (w.to(input.device, input.dtype) for w in (rows, columns))
        pooled.append(rows @ input[int(image)] @ columns.T)
    return torch.stack(pooled)


@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.parametrize(("size", "output_size", "scale", "ratio", "aligned"), CASES)
def test_forward_and_backward(
    backend, dtype, size, output_size, scale, ratio, aligned, layout, assert_no_worse_than_eager
) -> None:
    settings = (output_size, scale, ratio, aligned)
    input = make_input(size, layout).to(backend.device, dtype).requires_grad_()
    rois = make_rois(size[0], *size[2:], scale).to(backend.device)
    result = roi_align(input, rois, *settings, backend=backend.name)
    assert result.is_contiguous()
    plain = input.detach().clone().requires_grad_()
    expected = eager(plain, rois, *settings)
    exact_input = input.detach().double().requires_grad_()
    exact = eager(exact_input, rois, *settings)
    if dtype == torch.float64:  # the kernels place samples in float64 then, the definition does not
        torch.testing.assert_close(result, exact, rtol=1e-5, atol=1e-5)
    else:
        assert_no_worse_than_eager(result, expected, exact)

    grad = torch.randn(result.shape).to(backend.device, dtype)
    result.backward(grad)
    expected.backward(grad)
    exact.backward(grad.double())
    assert input.grad.shape == input.shape
    magnitudes = roi_align_backward_reference(
        grad.abs().double(), rois.double(), size, scale, output_size, ratio, aligned
    )
    if dtype == torch.float64:
        torch.testing.assert_close(input.grad, exact_input.grad, rtol=1e-4, atol=1e-4)
    else:
        assert_no_worse_than_eager(input.grad, plain.grad, exact_input.grad, magnitudes)


@pytest.mark.parametrize(("size", "output_size", "scale", "ratio", "aligned"), CASES)
def test_float64_against_the_reference(backend, size, output_size, scale, ratio, aligned) -> None:
    settings = (output_size, scale, ratio, aligned)
    input = make_input(size).double().to(backend.device).requires_grad_()
    rois = make_rois(size[0], *size[2:], scale).to(backend.device).double()
    results = []
    for name in (backend.name, "reference"):
        result = roi_align(input, rois, *settings, backend=name)
        (grad,) = torch.autograd.grad(result, input, torch.ones_like(result))
        results.append((result, grad))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 8, 15, 65])
def test_layouts(backend, layout: str, channels: int) -> None:
    """A layout changes nothing but the place where the numbers are."""
    input = make_input((2, channels, 17, 20), layout).to(backend.device)
    rois = make_rois(2, 17, 20, 1.0).to(backend.device)
    stored = torch.rand(len(rois), 10, device=backend.device)
    stored[:, ::2] = rois
    result = roi_align(input, stored[:, ::2], (3, 6), 1.0, 2, True, backend=backend.name)
    same = roi_align(input.contiguous(), rois, (3, 6), 1.0, 2, True, backend=backend.name)
    torch.testing.assert_close(result, same)


def test_boxes_of_each_image(backend) -> None:
    """A list of boxes is the same as boxes with the number of their image, in any order."""
    input = make_input((3, 5, 8, 9)).to(backend.device)
    boxes = [torch.rand(count, 4, device=backend.device) * 9 for count in (2, 0, 3)]
    numbers = torch.tensor([0.0, 0, 2, 2, 2], device=backend.device)[:, None]
    rois = torch.cat((numbers, torch.cat(boxes)), dim=1)
    result = roi_align(input, boxes, 2, backend=backend.name)
    assert torch.equal(result, roi_align(input, rois, (2, 2), backend=backend.name))
    assert torch.equal(result, roi_align(input, tuple(boxes), 2, backend=backend.name))
    order = torch.tensor([3, 0, 4, 2, 1])
    mixed = roi_align(input, rois[order], 2, backend=backend.name)
    torch.testing.assert_close(mixed, result[order])
    fewer = roi_align(input, boxes[:1], 2, backend=backend.name)
    torch.testing.assert_close(fewer, result[:2])
    assert roi_align(input, [], 2, backend=backend.name).shape == (0, 5, 2, 2)


@pytest.mark.parametrize("box_dtype", [torch.bfloat16, torch.float16], ids=str)
def test_numbers_of_images_are_not_rounded(backend, box_dtype: torch.dtype) -> None:
    input = torch.arange(2052.0, device=backend.device).view(-1, 1, 1, 1)
    boxes = [torch.tensor([[0, 0, 1, 1]], device=backend.device, dtype=box_dtype)] * len(input)
    result = roi_align(input, boxes, 1, backend=backend.name)
    assert torch.equal(result, input)


@pytest.mark.parametrize(
    ("num_images", "channels", "num_boxes"), [(2, 5, 0), (2, 0, 3), (0, 5, 0), (0, 0, 0)]
)
def test_empty(backend, num_images: int, channels: int, num_boxes: int) -> None:
    input = torch.randn(num_images, channels, 4, 4, device=backend.device, requires_grad=True)
    rois = torch.zeros(num_boxes, 5, device=backend.device)
    result = roi_align(input, rois, (2, 3), backend=backend.name)
    assert result.shape == (num_boxes, channels, 2, 3)
    result.sum().backward()
    assert input.grad.shape == input.shape
    assert not input.grad.any()


def test_many_boxes(backend) -> None:
    """More boxes than are prepared at a time, over images in no order."""
    input = make_input((3, 4, 6, 7)).to(backend.device).requires_grad_()
    boxes = torch.rand(600, 4, device=backend.device) * 7
    numbers = torch.randint(3, (600, 1), device=backend.device)
    rois = torch.cat((numbers, boxes), dim=1)
    settings = (2, 1.0, 1, True)
    result = roi_align(input, rois, *settings, backend=backend.name)
    expected = roi_align(input, rois, *settings, backend="reference")
    torch.testing.assert_close(result, expected)
    grad = torch.randn_like(result)
    (ours,) = torch.autograd.grad(result, input, grad)
    (reference,) = torch.autograd.grad(expected, input, grad)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


def test_huge_box(backend) -> None:
    """Adaptive sampling of a box far beyond the map visits only the samples on it."""
    input = torch.ones(1, 2, 4, 4, device=backend.device)
    far = [[-1e7, -1e7, 1e7, 1e7], [-1e30, 0, 1e30, 4], [0, 0, 1e30, 4], [-3e38, 0, 3e38, 4]]
    rois = torch.tensor([[0, *box] for box in far], device=backend.device)
    for aligned in (True, False):
        result = roi_align(input, rois, 1, aligned=aligned, backend=backend.name)
        assert result.isfinite().all()
        assert result.abs().max() < 1e-5


def test_box_of_thousands_of_cells(backend) -> None:
    """Adaptive sampling of a large box: of all its samples few are on the map, but none is lost."""
    input = torch.randn(1, 3, 5, 6, device=backend.device)
    boxes = [[-900, -700, 1500, 1200], [2, 1, 4000, 900], [-3000, -2, 3, 2500]]
    rois = torch.tensor([[0, *box] for box in boxes], device=backend.device).float()
    result = roi_align(input, rois, (7, 4), aligned=True, backend=backend.name)
    expected = eager(input.double(), rois, (7, 4), aligned=True)
    assert expected.any()
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-9)


def test_special_values_stay_in_their_bins(backend) -> None:
    """A NaN or infinite cell reaches the bins that read it, and no other."""
    if backend.name == "reference":
        pytest.skip("dense products spread them over the box")
    for value in (math.nan, math.inf):
        for layout in ("planes", "channels last"):
            input = make_input((1, 20, 18, 18), layout).to(backend.device)
            input[0, 3, 4, 4] = value
            rois = torch.tensor([[0.0, 0, 0, 18, 18]], device=backend.device)
            result = roi_align(input, rois, 6, 1.0, 2, True, backend=backend.name)
            broken = (~result.isfinite()).nonzero().tolist()
            assert broken == [[0, 3, 1, 1]]


@pytest.mark.usefixtures("deterministic_algorithms")
def test_same_bits_twice(backend) -> None:
    input = torch.randn(2, 19, 16, 15, device=backend.device, requires_grad=True)
    rois = make_rois(2, 16, 15, 1.0).to(backend.device)
    runs = []
    for _ in range(2):
        result = roi_align(input, rois, 5, backend=backend.name)
        (grad,) = torch.autograd.grad(result, input, result.detach())
        runs.append((result, grad))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    expected = roi_align_backward_reference(
        runs[0][0].detach(), rois, input.shape, 1.0, (5, 5), -1, False
    )
    torch.testing.assert_close(runs[0][1], expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("ratio", [2, -1])
@pytest.mark.parametrize("aligned", [True, False])
def test_gradcheck(backend, ratio: int, aligned: bool) -> None:
    if backend.name == "cuda":
        pytest.skip("checked through float32 against the reference")
    input = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[1, 0.2, 0.4, 4.1, 2.2], [0, -2, -2, 7, 4], [0, 1, 1, 1, 1]]).double()

    def run(input: Tensor) -> Tensor:
        return roi_align(input, rois, (2, 3), 0.75, ratio, aligned, backend=backend.name)

    assert torch.autograd.gradcheck(run, input)
    assert torch.autograd.gradgradcheck(run, input)


def test_opcheck(backend) -> None:
    input = torch.randn(2, 3, 6, 5, device=backend.device, requires_grad=True)
    rois = make_rois(2, 6, 5, 1.0).to(backend.device)
    settings = (1.0, [2, 3], -1, True, backend.name)
    torch.library.opcheck(torch.ops.fastregion.roi_align.default, (input, rois, *settings))
    grad = torch.randn(len(rois), 3, 2, 3, device=backend.device, requires_grad=True)
    torch.library.opcheck(
        torch.ops.fastregion.roi_align_backward.default, (grad, rois, [2, 3, 6, 5], *settings)
    )


def test_compiles_as_one_graph(backend) -> None:
    def run(input: Tensor, boxes: list[Tensor]) -> Tensor:
        return roi_align(input * 2, boxes, (2, 2), backend=backend.name).sum(1)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for num_boxes in (3, 5):
        input = torch.randn(2, 3, 8, num_boxes + 4, device=backend.device, requires_grad=True)
        again = input.detach().clone().requires_grad_()
        boxes = [torch.rand(num_boxes, 4, device=backend.device) * 8 for _ in range(2)]
        torch.testing.assert_close(compiled(input, boxes), run(again, boxes))
        compiled(input, boxes).sum().backward()
        run(again, boxes).sum().backward()
        torch.testing.assert_close(input.grad, again.grad)


def test_autocast_changes_nothing() -> None:
    input, boxes = torch.randn(1, 3, 5, 5), torch.rand(2, 5).half() * torch.tensor([0, 5, 5, 5, 5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = roi_align(input, boxes, 2)
    assert result.dtype == torch.float32


class _Pool(torch.nn.Module):
    def __init__(self, pool: torch.nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, maps: Tensor, boxes: list[Tensor]) -> Tensor:
        return self.pool(maps, boxes)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.parametrize("size", [3, (3, 2), [3, 2]], ids=str)
def test_torchscript(size: int | list[int] | tuple[int, int]) -> None:
    input = torch.rand(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    boxes = [torch.tensor([[0.5, 1, 4, 5]]).double(), torch.tensor([[1.0, 0, 6, 3]]).double()]
    rois = torch.cat((torch.tensor([[0.0], [1.0]]).double(), torch.cat(boxes)), dim=1)
    scripted = torch.jit.script(roi_align)
    expected = roi_align(input, rois, size, aligned=True)
    assert torch.equal(scripted(input, rois, size, aligned=True), expected)
    assert torch.equal(scripted(input, boxes, size, aligned=True), expected)
    assert torch.autograd.gradcheck(lambda x: scripted(x, rois, size), (input,))
    module = torch.jit.script(_Pool(RoIAlign(size, 1.0, -1, aligned=True)))
    assert torch.equal(module(input, boxes), expected)


@pytest.mark.filterwarnings("ignore:.*[Qq]uantiz")
@pytest.mark.parametrize(("scale", "zero_point"), [(1.0, 0), (0.5, 10)])
@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8, torch.qint32], ids=str)
def test_quantized(scale: float, zero_point: int, dtype: torch.dtype) -> None:
    def quantized(values: Tensor) -> Tensor:
        return torch.quantize_per_tensor(values, scale, zero_point, dtype)

    input = quantized(torch.randint(20, 50, (1, 2, 10, 10)).float())
    rois = quantized(torch.tensor([[0.0, 0, 0, 4, 9], [0, 3, 2, 8, 8]]))
    result = roi_align(input, rois, 5)
    expected = roi_align(input.dequantize(), rois.dequantize(), 5)
    assert torch.equal(result.int_repr(), quantized(expected).int_repr())
    assert (result.q_scale(), result.q_zero_point()) == (scale, zero_point)
    with pytest.raises(RuntimeError, match="Only one image per batch is allowed"):
        roi_align(torch.cat((input, input)), rois, 5)


def test_integers_of_numpy() -> None:
    input, rois = torch.randn(1, 2, 5, 5), torch.tensor([[0.0, 0, 0, 4, 4]])
    expected = roi_align(input, rois, (2, 3), sampling_ratio=2)
    two, three = np.int64(2), np.int32(3)
    assert torch.equal(roi_align(input, rois, (two, three), sampling_ratio=two), expected)
    assert roi_align(input, rois, three).shape == (1, 2, 3, 3)


def test_module() -> None:
    module = RoIAlign((2, 3), 0.5, sampling_ratio=2, aligned=True)
    assert repr(module) == (
        "RoIAlign(output_size=(2, 3), spatial_scale=0.5, sampling_ratio=2, aligned=True)"
    )
    input, boxes = torch.randn(1, 3, 5, 5), [torch.rand(2, 4) * 10]
    expected = roi_align(input, boxes, (2, 3), 0.5, 2, True)
    assert torch.equal(module(input, boxes), expected)

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = module

        def forward(self, input: Tensor, rois: Tensor) -> Tensor:
            return self.pool(input, rois).mean()

    rois = torch.cat((torch.zeros(2, 1), boxes[0]), dim=1)
    traced = torch.fx.symbolic_trace(Head())
    assert torch.equal(traced(input, rois), expected.mean())


@pytest.mark.parametrize("ratio", [2, -1])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torchvision(layout: str, ratio: int, aligned: bool) -> None:
    """Forward and backward are torchvision's, to rounding, where it is installed."""
    ops = pytest.importorskip(
        "torchvision.ops",
        reason="not compared with torchvision: the one that fits this torch is not installed",
        exc_type=ImportError,
    )
    input = make_input((2, 35, 24, 31), layout).requires_grad_()
    rois = torch.rand(20, 2, 2).sort(dim=1).values.flatten(1) * 60
    rois = torch.cat((torch.randint(2, (20, 1)), rois), dim=1)
    results = []
    for function in (roi_align, ops.roi_align):
        result = function(input, rois, (7, 5), 0.5, ratio, aligned)
        (grad,) = torch.autograd.grad(result, input, result.detach())
        results.append((result, grad))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_more_than_31_bits(backend) -> None:
    """2.2e9 elements: offsets do not fit 32 bits."""
    if backend.name == "reference" or os.environ.get(simt_module.VARIABLE):
        pytest.skip("would take minutes")
    input = torch.zeros(1, 2, 32768, 33000, dtype=torch.bfloat16, device=backend.device)
    input[0, 1, -40:, -40:] = torch.randn(40, 40)
    rois = torch.tensor([[0, 32965.0, 32735, 32998, 32766]], device=backend.device)
    result = roi_align(input, rois, 4, 1.0, 2, True, backend=backend.name)
    near = roi_align(
        input[:, :, -40:, -40:].float(),
        rois - torch.tensor([0, 32960, 32728, 32960, 32728], device=backend.device),
        4,
        1.0,
        2,
        True,
        backend="reference",
    )
    torch.testing.assert_close(result.float(), near, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input": torch.zeros(3, 9, 9)}, ValueError, r"input must be \[N, C, H, W\], got shape"),
        ({"input": torch.zeros(1, 3, 0, 9)}, ValueError, "input must have at least one row and"),
        ({"input": torch.zeros(2, 3, 9, 9).int()}, TypeError, "input must be .* got int32"),
        ({"boxes": torch.zeros(3, 4)}, ValueError, r"boxes must be \[R, 5\] .* got shape \(3, 4\)"),
        ({"boxes": torch.zeros(5)}, ValueError, r"boxes must be \[R, 5\] .* got shape \(5,\)"),
        ({"boxes": [torch.zeros(3, 5)]}, ValueError, r"\(3, 5\) for image 0"),
        ({"boxes": [torch.zeros(4)]}, AssertionError, r"\(4,\) for image 0"),  # as torchvision
        ({"boxes": [torch.zeros(1, 4)] * 3}, ValueError, "each of the 2 images, got 3 of them"),
        ({"boxes": [[0, 0, 1, 1]]}, TypeError, "a list of tensors, got list for image 0"),
        (
            {"boxes": [torch.zeros(1, 4), torch.zeros(1, 4, device="meta")]},
            ValueError,
            r"input and boxes\[1\] must be on the same device, got cpu and meta",
        ),
        ({"boxes": [torch.zeros(1, 4).int()]}, TypeError, r"boxes\[0\] must be .* got int32"),
        ({"boxes": 3}, TypeError, "a tensor or a list of tensors, got int"),
        ({"boxes": torch.zeros(3, 5).int()}, TypeError, "boxes must be .* got int32"),
        ({"boxes": torch.zeros(3, 5, device="meta")}, ValueError, "same device, got cpu and meta"),
        ({"output_size": (0, 1)}, ValueError, "output_size must be two integers of at least 1"),
        ({"output_size": (1, 2, 3)}, ValueError, "output_size must be two integers of at least 1"),
        ({"output_size": True}, ValueError, "two integers of at least 1, got True"),
        ({"output_size": (np.bool_(True), 2)}, ValueError, "two integers of at least 1, got"),
        ({"sampling_ratio": 2.9}, TypeError, "sampling_ratio must be an integer, got 2.9"),
        ({"sampling_ratio": True}, TypeError, "sampling_ratio must be an integer, got True"),
        ({"spatial_scale": math.nan}, ValueError, "spatial_scale must be finite, got nan"),
        ({"output_size": 2.5}, ValueError, "output_size must be two integers of at least 1"),
        (
            {"boxes": torch.tensor([[0, 0, 0, 1, 1], [0, 0, math.nan, 1, 1]])},
            ValueError,
            "boxes must be finite, got .* in row 1",
        ),
        (
            {"boxes": torch.tensor([[0, 0, 0, math.inf, 1]])},
            ValueError,
            "boxes must be finite, got .* in row 0",
        ),
        (
            {"boxes": torch.tensor([[0, 0, 0, 1, 1], [2.0, 0, 0, 1, 1]])},
            ValueError,
            "batch index of a box must be an integer below 2, got 2 in row 1",
        ),
        (
            {"boxes": torch.tensor([[-1.0, 0, 0, 1, 1]])},
            ValueError,
            "batch index of a box must be an integer below 2, got -1 in row 0",
        ),
        (
            {"boxes": torch.tensor([[0.5, 0, 0, 1, 1]])},
            ValueError,
            "batch index of a box must be an integer below 2, got 0.5 in row 0",
        ),
        ({"backend": "gpu"}, ValueError, "backend must be auto, reference, cpu or cuda, got 'gpu'"),
    ],
)
def test_errors(changes: dict, error: type[Exception], message: str) -> None:
    if "in row" in message and os.environ.get(simt_module.VARIABLE):
        pytest.skip("a CUDA kernel gives zeros: reading values back would synchronise")
    arguments = {
        "input": torch.zeros(2, 3, 9, 9),
        "boxes": torch.zeros(3, 5),
        "output_size": (2, 2),
    } | changes
    backends = [{}] if "backend" in changes else [{"backend": "reference"}, {}]
    for backend in backends:
        with pytest.raises(error, match=f"^roi_align: .*{message}"):
            roi_align(**arguments, **backend)
