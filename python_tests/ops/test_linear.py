"""linear against functional.linear, by either product."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from fastregion.ops import Linear, linear
from fastregion.ops.linear import PRODUCTS, VARIABLE, linear_product

linear_file = sys.modules["fastregion.ops.linear"]


@pytest.fixture(params=PRODUCTS)
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small products too."""
    monkeypatch.setattr(linear_file, "_FEWEST_MULTIPLY_ADDS", 1)


# Shape of x, outputs
SHAPES = [((4, 8), 16), ((1, 1), 1), ((7,), 5), ((2, 3, 11), 13), ((17, 33), 1), ((1, 257), 31)]


def given(shape: tuple[int, ...], outputs: int, bias: bool = True) -> list[Tensor]:
    tensors = [torch.randn(shape), torch.randn(outputs, shape[-1])]
    return [t.requires_grad_() for t in (*tensors, *([torch.randn(outputs)] if bias else []))]


def as_leaves(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [t.detach().to(dtype).requires_grad_() for t in tensors]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
def test_forward_and_backward(product, shape, outputs, bias, assert_no_worse_than_eager) -> None:
    ours = given(shape, outputs, bias)
    plain, exact = as_leaves(ours, torch.float32), as_leaves(ours, torch.float64)
    results = [linear(*ours), functional.linear(*plain), functional.linear(*exact)]
    magnitudes = functional.linear(ours[0].abs(), ours[1].abs())
    assert_no_worse_than_eager(*results, magnitudes)
    grad = torch.randn(results[0].shape)
    for result in results:
        result.backward(grad.to(result.dtype))
    for one, other, true in zip(ours, plain, exact, strict=True):
        magnitudes = grad.abs().sum() * ours[0].detach().abs().max()
        assert_no_worse_than_eager(one.grad, other.grad, true.grad, magnitudes)


@pytest.mark.usefixtures("always", "product")
def test_layouts() -> None:
    x, weight = torch.randn(6, 5, 14), torch.randn(9, 14)
    for rows in (x, x[:, ::2, 1:8], x.transpose(0, 1), x[..., ::2], x[:1].expand(3, 5, 14)):
        for columns in (weight, torch.randn(14, 9).t()):
            part = columns[:, : rows.shape[-1]]
            expected = functional.linear(rows, part)
            torch.testing.assert_close(linear(rows, part), expected)


# torch scripts its own forward-mode rules when they are first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.usefixtures("always", "product")
def test_forward_mode_and_transforms() -> None:
    """By torch's own rules: an operator of ours would have a tangent of zeros."""
    x, weight, tangent = torch.randn(5, 8), torch.randn(3, 8), torch.randn(5, 8)
    out, derivative = torch.func.jvp(lambda x: linear(x, weight), (x,), (tangent,))
    torch.testing.assert_close(out, functional.linear(x, weight))
    torch.testing.assert_close(derivative, functional.linear(tangent, weight))
    with forward_ad.dual_level():
        dual = linear(forward_ad.make_dual(x, tangent), weight)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, derivative)
    torch.testing.assert_close(torch.vmap(lambda row: linear(row, weight))(x), out)


@pytest.mark.usefixtures("always", "product")
@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (3, 0)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    ours = given(shape, 3)
    plain = as_leaves(ours, torch.float32)
    result, expected = linear(*ours), functional.linear(*plain)
    assert torch.equal(result, expected)
    result.sum().backward()
    expected.sum().backward()
    for one, other in zip(ours, plain, strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.usefixtures("product")
def test_a_product_large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any help the chosen product runs, forward and in both gradients."""
    calls = []
    original = linear_file.linear_product
    monkeypatch.setattr(linear_file, "linear_product", lambda: calls.append(1) or original())
    ours = [torch.randn(330, 330, requires_grad=True) for _ in range(2)]
    plain = as_leaves(ours, torch.float32)
    linear(*ours).sum().backward()
    functional.linear(*plain).sum().backward()
    assert len(calls) == 3
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("always", "product")
def test_only_wanted_gradients() -> None:
    for wanted in range(3):
        ours = [t.detach().requires_grad_(k == wanted) for k, t in enumerate(given((3, 4), 5))]
        plain = [t.detach().clone().requires_grad_(k == wanted) for k, t in enumerate(ours)]
        linear(*ours).sum().backward()
        functional.linear(*plain).sum().backward()
        torch.testing.assert_close(ours[wanted].grad, plain[wanted].grad)


@pytest.mark.usefixtures("always", "product")
def test_second_gradient() -> None:
    ours = given((3, 4), 5)
    plain = as_leaves(ours, torch.float32)
    found = []
    for tensors, function in ((ours, linear), (plain, functional.linear)):
        first = torch.autograd.grad(function(*tensors).square().sum(), tensors, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), tensors))
    for one, other in zip(*found, strict=True):  # sums of cancelling terms as large as the largest
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * other.abs().max().item())


@pytest.mark.usefixtures("always", "product")
def test_opcheck() -> None:
    operator = torch.ops.fastregion.linear.default
    torch.library.opcheck(operator, tuple(given((2, 3, 4), 5)))
    torch.library.opcheck(operator, (*given((3, 4), 5, bias=False), None))


@pytest.mark.usefixtures("always", "product")
def test_compiles_as_one_graph() -> None:
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear(x * 2, weight, bias).sum(1)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (3, 5):
        ours = given((rows, 4), 6)
        plain = as_leaves(ours, torch.float32)
        torch.testing.assert_close(compiled(*ours), run(*plain))
        compiled(*ours).sum().backward()
        run(*plain).sum().backward()
        for one, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.usefixtures("always", "product")
def test_autocast_and_other_dtypes_are_torch_s_own() -> None:
    tensors = [t.detach() for t in given((4, 8), 3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result, expected = linear(*tensors), functional.linear(*tensors)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, expected)
    for dtype in (torch.float64, torch.bfloat16):
        tensors = [t.to(dtype) for t in tensors]
        assert torch.equal(linear(*tensors), functional.linear(*tensors))


@pytest.mark.usefixtures("always", "product")
def test_module() -> None:
    ours, plain = Linear(6, 4), nn.Linear(6, 4)
    ours.load_state_dict(plain.state_dict(), strict=True)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 6)
    torch.testing.assert_close(ours(x), plain(x))


@pytest.mark.usefixtures("always", "product")
def test_errors_are_torch_s_own() -> None:
    for tensors in (
        (torch.zeros(2, 3), torch.zeros(4, 5)),
        (torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(5)),
        (torch.zeros(2, 3), torch.zeros(4, 3, dtype=torch.float64)),
    ):
        with pytest.raises(RuntimeError) as error:
            functional.linear(*tensors)
        with pytest.raises(RuntimeError) as same:
            linear(*tensors)
        assert str(same.value) == str(error.value)


def test_unknown_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "mkl")
    with pytest.raises(ValueError, match=r"^linear: .* must be torch or onednn, got 'mkl'"):
        linear_product()


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_file, "_has_onednn", lambda: False)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert linear_product() == "torch"
    monkeypatch.setenv(VARIABLE, "onednn")
    with pytest.raises(RuntimeError, match=r"^linear: .* this build of torch has no oneDNN"):
        linear_product()


@pytest.mark.parametrize(
    ("text", "mkl", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\n", True, "onednn"),
        ("vendor_id\t: AuthenticAMD\n", False, "torch"),
        ("vendor_id\t: GenuineIntel\n", True, "torch"),
        (None, True, "torch"),
    ],
)
def test_the_processor_decides_and_no_clock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, mkl: bool, expected: str
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(linear_file, "_has_onednn", lambda: True)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(linear_file, "_PROCESSOR", file)
    linear_file._product_of_processor.cache_clear()
    try:
        assert linear_product() == expected
    finally:
        linear_file._product_of_processor.cache_clear()
