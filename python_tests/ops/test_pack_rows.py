"""pack_rows against concatenation and indexing, on every backend."""

import os

import pytest
import simt_module
import torch
from torch import Tensor

from fastregion.ops import pack_rows

SIZES = [(1,), (5, 3), (7, 0, 4, 9)]


def make_sources(sizes: tuple[int, ...], width: int, backend, dtype=torch.float32) -> list[Tensor]:
    return [torch.randn(size, width).to(backend.device, dtype) for size in sizes]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("width", [1, 67])
def test_rows(backend, dtype, sizes, width, assert_no_worse_than_eager) -> None:
    """Forward bit for bit; the gradient of repeated rows is rounded once."""
    sources = [x.requires_grad_() for x in make_sources(sizes, width, backend, dtype)]
    rows = torch.randint(sum(sizes), (23,), device=backend.device)
    result = pack_rows(sources, rows, backend=backend.name)
    assert torch.equal(result, torch.cat(sources)[rows])

    grad = torch.randn(result.shape).to(backend.device, dtype)
    result.backward(grad)
    plain = torch.zeros(sum(sizes), width, device=backend.device, dtype=dtype)
    plain.index_add_(0, rows, grad)
    exact = torch.zeros(sum(sizes), width, device=backend.device, dtype=torch.float64)
    exact.index_add_(0, rows, grad.double())
    gradient = torch.cat([source.grad for source in sources])
    assert_no_worse_than_eager(gradient, plain, exact)


@pytest.mark.parametrize("width", [16, 517, 2048])
def test_gradient_of_rows_that_repeat_often(backend, width: int) -> None:
    """Whole vectors and several chunks of them, single elements; rows nobody asked for are 0."""
    source = torch.randn(9, width, device=backend.device, requires_grad=True)
    rows = torch.tensor([8, 0, 8, 8, 3, 8, 0], device=backend.device)
    grad = torch.randn(7, width, device=backend.device)
    pack_rows([source], rows, backend=backend.name).backward(grad)
    exact = torch.zeros(9, width, dtype=torch.float64).index_add_(
        0, rows.cpu(), grad.cpu().double()
    )
    torch.testing.assert_close(source.grad.cpu().double(), exact, rtol=1e-5, atol=1e-5)
    again = torch.autograd.grad(pack_rows([source], rows, backend=backend.name), source, grad)[0]
    assert torch.equal(again, source.grad)


def test_large_outputs_and_threads() -> None:
    """Beyond the size that is written past the cache, unaligned rows too; the same bits."""
    if os.environ.get(simt_module.VARIABLE):
        pytest.skip("about the CPU kernel, and large")
    for width in (1024, 1021):
        source = torch.randn(4500, width)
        rows = torch.randint(4500, (4500,))
        grad = torch.randn(4500, width)
        expected = source[rows]
        gradients = []
        threads = torch.get_num_threads()
        for count in (1, 2):
            torch.set_num_threads(count)
            leaf = source.clone().requires_grad_()
            result = pack_rows([leaf], rows)
            result.backward(grad)
            torch.set_num_threads(threads)
            assert torch.equal(result, expected)
            gradients.append(leaf.grad)
        assert torch.equal(*gradients)


def test_in_place(backend, dtype) -> None:
    """Rows numbered -1 keep what they hold; the buffer may have wider rows than are written."""
    first, second = make_sources((5, 3), 67, backend, dtype)
    rows = torch.tensor([7, -1, 0, -1, 4], device=backend.device)
    buffer = torch.randn(5, 80).to(backend.device, dtype)
    for out in (buffer[:, :67].contiguous(), buffer[:, 8:75]):
        before = buffer.clone()
        expected = out.clone()
        expected[rows >= 0] = torch.cat((first, second))[rows[rows >= 0]]
        version = out._version
        assert pack_rows([first, second], rows, out=out, backend=backend.name) is out
        assert torch.equal(out, expected)
        assert out._version > version
    assert torch.equal(buffer[:, :8], before[:, :8])
    assert torch.equal(buffer[:, 75:], before[:, 75:])


def test_autograd_knows_of_the_writing(backend) -> None:
    """What a gradient needs and is overwritten is an error, not another gradient."""
    x, y = torch.randn(2, 3, 4, device=backend.device)
    product = (x.requires_grad_() * y).sum()
    rows = torch.tensor([0, -1, 1], device=backend.device)
    pack_rows([torch.randn(2, 4, device=backend.device)], rows, out=y, backend=backend.name)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_in_place_sizes(backend) -> None:
    source = torch.randn(4, 16, device=backend.device)
    for total in (0, 1, 5):
        rows = torch.full((total,), -1, device=backend.device)
        out = torch.randn(total, 16, device=backend.device)
        before = out.clone()
        assert torch.equal(pack_rows([source], rows, out=out, backend=backend.name), before)
    empty = torch.empty(3, 0, device=backend.device)
    rows = torch.tensor([0, -1, 2], device=backend.device)
    assert pack_rows([empty], rows, out=empty.clone(), backend=backend.name).shape == (3, 0)


def test_only_wanted_gradients(backend) -> None:
    first, second = make_sources((3, 4), 5, backend)
    second.requires_grad_()
    rows = torch.tensor([6, 0, 3, 3], device=backend.device)
    pack_rows([first, second], rows, backend=backend.name).sum().backward()
    assert first.grad is None
    assert second.grad[:, 0].tolist() == [2, 0, 0, 1]


def test_layouts(backend) -> None:
    sources = [
        torch.randn(8, 12, device=backend.device)[::2, ::3],
        torch.randn(4, 6, device=backend.device).t(),
        torch.randn(1, 4, device=backend.device).expand(3, 4),
    ]
    rows = torch.arange(26, device=backend.device)[::2] % 13
    result = pack_rows(sources, rows, backend=backend.name)
    assert torch.equal(result, torch.cat(sources)[rows])
    leaf = sources[0].clone().requires_grad_()
    pack_rows([leaf], torch.tensor([3, 1], device=backend.device), backend=backend.name).sum(
        1
    ).sum().backward()  # an expanded gradient
    assert leaf.grad[:, 0].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(("total", "width"), [(0, 3), (4, 0)])
def test_empty(backend, total: int, width: int) -> None:
    source = torch.randn(5, width, device=backend.device, requires_grad=True)
    rows = torch.zeros(total, dtype=torch.int64, device=backend.device)
    result = pack_rows([source], rows, backend=backend.name)
    assert result.shape == (total, width)
    result.sum().backward()
    assert not source.grad.any()


def test_opcheck_and_compile(backend) -> None:
    sources = [x.requires_grad_() for x in make_sources((5, 3), 4, backend)]
    rows = torch.tensor([7, 0, 0, 4], device=backend.device)
    operator = torch.ops.fastregion.pack_rows.default
    torch.library.opcheck(operator, (sources, rows, backend.name))
    operator = torch.ops.fastregion.pack_rows_.default
    plain = [source.detach() for source in sources]
    out = torch.randn(4, 4, device=backend.device)
    torch.library.opcheck(
        operator, (out, plain, torch.tensor([7, -1, 0, 4], device=backend.device), backend.name)
    )
    operator = torch.ops.fastregion.pack_rows_backward.default
    grad = torch.randn(4, 4, device=backend.device)
    torch.library.opcheck(operator, (grad, rows, [5, 3], [1, 0], backend.name))

    def run(first: Tensor, second: Tensor) -> Tensor:
        return pack_rows([first * 2, second], rows, backend=backend.name).square()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*sources), run(*sources))
    grads = torch.autograd.grad(compiled(*sources).sum(), sources)
    expected = torch.autograd.grad(run(*sources).sum(), sources)
    torch.testing.assert_close(grads, expected)

    def run_in_place(first: Tensor, second: Tensor, out: Tensor) -> Tensor:
        return pack_rows([first * 2, second], rows, out=out * 1, backend=backend.name) + 1

    compiled = torch.compile(run_in_place, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*plain, out), run_in_place(*plain, out))


TABLE = torch.zeros(10, 4)


def test_errors_in_place(backend) -> None:
    source, rows = TABLE.to(backend.device), torch.tensor([1, -1, 2], device=backend.device)

    def run(out: Tensor, source: Tensor = source) -> Tensor:
        return pack_rows([source], rows, out=out, backend=backend.name)

    out = source[:3].clone()
    with pytest.raises(ValueError, match=r"out must be \[total, D\] = \(3, 4\), got .*\(2, 4\)"):
        run(out[:2])
    with pytest.raises(ValueError, match=r"contiguous channels .* got strides \(1, 3\)"):
        run(out.t().contiguous().t())
    with pytest.raises(ValueError, match=r"rows apart .* got strides \(0, 1\)"):
        run(out[:1].expand(3, 4))
    with pytest.raises(TypeError, match=r"sources.*and out must have the same dtype"):
        run(out.double())
    with pytest.raises(
        ValueError, match=r"out is for inference, but sources\[0\] requires a gradient"
    ):
        run(out, source.clone().requires_grad_())
    with torch.no_grad():
        run(out, source.clone().requires_grad_())
    if backend.device.type == "cpu":
        with pytest.raises(ValueError, match=r"rows must be -1 to 1 .* got 2"):
            run(out, source[:2])


def test_errors(backend) -> None:
    with pytest.raises(ValueError, match=r"^pack_rows: sources must hold at least one tensor"):
        pack_rows([], torch.zeros(1, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"^pack_rows: rows must be int64"):
        pack_rows([TABLE], torch.zeros(1, dtype=torch.int32))
    if backend.device.type == "cpu":
        for row in (-1, 10):
            with pytest.raises(ValueError, match=f"^pack_rows: rows must be 0 to 9 .* got {row}"):
                pack_rows([TABLE], torch.tensor([row]), backend=backend.name)


@pytest.mark.slow
@pytest.mark.parametrize("large", ["source", "out", "gradient"])
def test_more_than_31_bits(backend, large: str) -> None:
    """Offsets into 2.2e9 elements: rows far apart, so that little memory is ever touched."""
    stride = 2_200_000_000 // 15
    stored = torch.empty(15 * stride + 8, dtype=torch.bfloat16, device=backend.device)
    far = stored.as_strided((16, 8), (stride, 1))
    values = torch.randn(16, 8).to(backend.device, torch.bfloat16)
    rows = torch.randperm(16, device=backend.device)
    if large == "source":
        result = pack_rows([far.copy_(values)], rows, backend=backend.name)
        assert torch.equal(result, values[rows])
    elif large == "out":
        pack_rows([values], rows, out=far, backend=backend.name)
        assert torch.equal(far, values[rows])
    else:
        operator = torch.ops.fastregion.pack_rows_backward
        (gradient,) = operator(far.copy_(values), rows, [16], [0], backend.name)
        assert torch.equal(gradient[rows], values)
