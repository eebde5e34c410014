"""gated_residual_norm against separate steps of plain torch, on every backend."""

import os

import pytest
import simt_module
import torch
from torch import Tensor
from torch.nn import functional

from fastregion.ops import gated_residual_norm
from fastregion.ops.gated_residual_norm import (
    gated_residual_norm_backward_reference,
    gated_residual_norm_reference,
)

EPS = 1e-6
# Leading sizes and channels: one value, one row, primes, around a vector and a block of threads,
# several rows in a block of rows.
SHAPES = [((1,), 1), ((3,), 5), ((), 7), ((2, 3), 16), ((5,), 33), ((1, 1), 257), ((131,), 8)]
NAMES = ("x", "branch", "gate", "norm_weight", "norm_bias")


def eager(x, branch, gate, norm_weight, norm_bias, eps=EPS) -> tuple[Tensor, Tensor]:
    """Every step in the dtype given."""
    y = x + gate * branch
    return y, functional.layer_norm(y, y.shape[-1:], norm_weight, norm_bias, eps)


def inputs(lead: tuple[int, ...], channels: int, gate: str, affine: bool = True) -> list:
    shape = {"scalar": (), "one": (1,), "channel": (channels,)}[gate]
    tensors = [torch.randn(*lead, channels) + 0.5, torch.randn(*lead, channels)]
    tensors.append(torch.randn(shape))
    affine_shapes = 2 * [(channels,)] if affine else []
    return [*tensors, *(torch.randn(s) for s in affine_shapes), *([] if affine else 2 * [None])]


def leaves(tensors: list, device, dtype, parameter_dtype=None) -> list:
    parameter_dtype = parameter_dtype or dtype
    return [
        None
        if tensor is None
        else tensor.detach().to(device, dtype if k < 2 else parameter_dtype).requires_grad_()
        for k, tensor in enumerate(tensors)
    ]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("gate", ["scalar", "channel"])
@pytest.mark.parametrize(("lead", "channels"), SHAPES)
def test_forward_and_backward(
    backend, dtype, lead, channels, gate, affine, assert_no_worse_than_eager
) -> None:
    ours = leaves(inputs(lead, channels, gate, affine), backend.device, dtype)
    plain = leaves(ours, backend.device, dtype)
    exact = leaves(ours, backend.device, torch.float64)
    # With one channel the variance is 0, and what it is divided by is a matter of eps alone.
    eps = 1.0 if channels == 1 else EPS
    results = gated_residual_norm(*ours, eps, backend=backend.name)
    expected = eager(*plain, eps)
    # The definition: the norm is that of the y that is stored.
    truth = [eager(*exact, eps)[0]]
    exact_y = results[0].detach().double().requires_grad_()
    weights = exact[3:]
    truth.append(functional.layer_norm(exact_y, exact_y.shape[-1:], *weights, eps))
    for result, one, true in zip(results, expected, truth, strict=True):
        assert result.shape == (*lead, channels)
        assert_no_worse_than_eager(result, one, true)

    grads = [torch.randn(*lead, channels).to(backend.device, dtype) for _ in results]
    torch.autograd.backward(results, grads)
    torch.autograd.backward(expected, grads)
    torch.autograd.backward(truth[1], grads[1].double())
    truth[0].backward(exact_y.grad + grads[0].double())
    n = functional.layer_norm(exact_y.detach(), exact_y.shape[-1:], eps=eps)
    magnitudes = {  # of what the gradients of the parameters are sums of
        "gate": (exact[0].grad * exact[1]).abs().sum(),
        "norm_weight": (grads[1] * n).abs().sum(),
        "norm_bias": grads[1].double().abs().sum(),
    }
    for name, mine, one, true in zip(NAMES, ours, plain, exact, strict=True):
        if mine is not None:
            assert mine.grad.dtype == mine.dtype
            assert_no_worse_than_eager(mine.grad, one.grad, true.grad, magnitudes.get(name))


def test_reference_is_the_definition() -> None:
    """By hand, a row at a time, and the gradient by autograd."""
    tensors = [t.double() for t in inputs((4,), 6, "channel")]
    y, normed = gated_residual_norm_reference(*tensors, EPS)
    x, branch, gate, weight, bias = tensors
    for r in range(4):
        row = [x[r, c] + gate[c] * branch[r, c] for c in range(6)]
        mean = sum(row) / 6
        variance = sum((value - mean) ** 2 for value in row) / 6
        for c in range(6):
            n = (row[c] - mean) / (variance + EPS) ** 0.5
            torch.testing.assert_close(y[r, c], row[c])
            torch.testing.assert_close(normed[r, c], n * weight[c] + bias[c])
    grads = torch.randn(2, 4, 6, dtype=torch.float64)
    wanted = [t.clone().requires_grad_() for t in tensors]
    torch.autograd.backward(eager(*wanted), tuple(grads))
    result = gated_residual_norm_backward_reference(*grads, y, branch, gate, weight, True, EPS)
    for one, other in zip(result, wanted, strict=True):
        torch.testing.assert_close(one, other.grad)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gate", ["one", "channel"])
def test_float32_parameters_of_half_rows(backend, half, gate) -> None:
    """Mixed precision: rows rounded, parameters and their gradients not."""
    tensors = inputs((9,), 24, gate)
    ours = leaves(tensors, backend.device, half, torch.float32)
    plain = [t.detach().float().requires_grad_() for t in ours]
    results = gated_residual_norm(*ours, EPS, backend=backend.name)
    y = eager(*plain)[0]
    y = y + (results[0].float() - y).detach()  # as rounded
    expected = y, functional.layer_norm(y, (24,), *plain[3:], EPS)
    eps = torch.finfo(half).eps
    for result, one in zip(results, expected, strict=True):
        assert result.dtype == half
        torch.testing.assert_close(result.float(), one, rtol=eps, atol=eps)
    grads = [torch.randn(9, 24).to(backend.device, half) for _ in results]
    torch.autograd.backward(results, grads)
    torch.autograd.backward(expected, [grad.float() for grad in grads])
    for one, other in zip(ours, plain, strict=True):
        tolerance = eps if one.dtype == half else 1e-5
        torch.testing.assert_close(one.grad.float(), other.grad, rtol=tolerance, atol=tolerance * 9)


def test_only_one_result_used(backend) -> None:
    for used in range(2):
        ours = leaves(inputs((3,), 8, "one"), backend.device, torch.float64)
        plain = leaves(ours, backend.device, torch.float64)
        gated_residual_norm(*ours, EPS, backend=backend.name)[used].sum().backward()
        eager(*plain)[used].sum().backward()
        for name, one, other in zip(NAMES, ours, plain, strict=True):
            expected = torch.zeros_like(other) if other.grad is None else other.grad
            given = torch.zeros_like(one) if one.grad is None else one.grad
            torch.testing.assert_close(given, expected, msg=lambda m, n=name: f"{n}: {m}")


def test_tanh(backend) -> None:
    ours = leaves(inputs((3,), 8, "one"), backend.device, torch.float64)
    plain = leaves(ours, backend.device, torch.float64)
    results = gated_residual_norm(*ours, EPS, gate_activation="tanh", backend=backend.name)
    expected = eager(plain[0], plain[1], plain[2].tanh(), *plain[3:])
    torch.testing.assert_close(results, expected)
    sum(r.sum() for r in results).backward()
    sum(r.sum() for r in expected).backward()
    torch.testing.assert_close(ours[2].grad, plain[2].grad)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (3, 0)], ids=str)
@pytest.mark.parametrize("gate", ["one", "channel"])
def test_empty(backend, shape: tuple[int, ...], gate: str) -> None:
    ours = leaves(inputs(shape[:-1], shape[-1], gate), backend.device, torch.float32)
    results = gated_residual_norm(*ours, EPS, backend=backend.name)
    assert [result.shape for result in results] == [shape, shape]
    sum(result.sum() for result in results).backward()
    for tensor in ours:
        assert tensor.grad.shape == tensor.shape
        assert not tensor.grad.any()


def test_layouts(backend) -> None:
    """Slices, permutations and expanded tensors give the bits of their contiguous copies."""
    stored = torch.randn(4, 6, 16, device=backend.device)
    _, _, gate, weight, bias = (
        None if t is None else t.to(backend.device) for t in inputs((), 8, "channel")
    )
    wide = torch.stack((gate, weight, bias), dim=1)
    for x in (
        stored[:, ::2, 4:12],  # rows further apart, at an odd place
        stored[..., ::2],  # channels apart
        stored.permute(2, 0, 1)[:8].permute(1, 2, 0)[..., :8],
        stored[:1, :, :8].expand(4, 6, 8),  # batch stride 0
        stored[0, 0, 1:9],  # one row
    ):
        results = gated_residual_norm(x, x, *wide.unbind(1), EPS, backend=backend.name)
        dense = x.contiguous()
        same = gated_residual_norm(dense, dense, gate, weight, bias, EPS, backend=backend.name)
        assert all(map(torch.equal, results, same))
    x = stored[..., :8].clone().requires_grad_()
    results = gated_residual_norm(x, x, gate, weight, bias, EPS, backend=backend.name)
    (results[0].sum() + results[1].sum()).backward()  # expanded gradients of stride 0
    again = x.detach().clone().requires_grad_()
    sum(r.sum() for r in eager(again, again, gate, weight, bias)).backward()
    torch.testing.assert_close(x.grad, again.grad)


def test_large_mean(backend) -> None:
    """The variance survives a mean that is far larger: no difference of squares."""
    x = (torch.randn(3, 40) + 1e4).to(backend.device)
    zeros = torch.zeros_like(x)
    one = torch.ones((), device=backend.device)
    _, normed = gated_residual_norm(x, zeros, one, None, None, 0.0, backend=backend.name)
    exact = functional.layer_norm(x.double(), (40,), eps=0.0)
    torch.testing.assert_close(normed.double(), exact, rtol=0, atol=5e-3)


def test_nan_stays_in_its_row(backend) -> None:
    tensors = [t.to(backend.device) for t in inputs((3,), 9, "one")]
    clean = gated_residual_norm(*tensors, EPS, backend=backend.name)
    tensors[0][1, 4] = float("nan")
    dirty = gated_residual_norm(*tensors, EPS, backend=backend.name)
    for one, other in zip(clean, dirty, strict=True):
        assert torch.equal(one[::2], other[::2])
    assert dirty[1][1].isnan().all()


def test_same_bits_on_any_number_of_threads(backend) -> None:
    # The harness has no threads, and takes its time.
    rows = 9 if os.environ.get(simt_module.VARIABLE) else 1100
    given = inputs((rows,), 72, "one")
    grads = torch.randn(2, rows, 72).to(backend.device).unbind(0)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            ours = leaves(given, backend.device, torch.float32)
            results = gated_residual_norm(*ours, EPS, backend=backend.name)
            torch.autograd.backward(results, grads)
            found.append([*results, *(tensor.grad for tensor in ours)])
    finally:
        torch.set_num_threads(before)
    if backend.name == "reference":  # torch's own sums may depend on it
        found = found[1:]
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.parametrize("gate", ["scalar", "channel"])
def test_gradcheck(backend, gate: str) -> None:
    if backend.name == "cuda":
        pytest.skip("checked through float32 against plain torch")
    tensors = leaves(inputs((2, 2), 3, gate), backend.device, torch.float64)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return gated_residual_norm(*tensors, EPS, gate_activation="tanh", backend=backend.name)

    assert torch.autograd.gradcheck(run, tensors)
    (grad,) = torch.autograd.grad(run(*tensors)[1].square().sum(), tensors[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"^gated_residual_norm: second derivatives"):
        grad.sum().backward()


def test_opcheck(backend) -> None:
    ours = leaves(inputs((2, 3), 4, "one"), backend.device, torch.float32)
    operator = torch.ops.fastregion.gated_residual_norm.default
    torch.library.opcheck(operator, (*ours, EPS, backend.name))
    torch.library.opcheck(operator, (*ours[:3], None, None, EPS, backend.name))
    y, branch, gate, weight = (t.detach() for t in ours[:4])
    backward = torch.ops.fastregion.gated_residual_norm_backward.default
    for given, has_bias in ((weight, True), (None, False)):
        torch.library.opcheck(
            backward, (branch, y, y, branch, gate, given, has_bias, EPS, backend.name)
        )


def test_compiles_as_one_graph(backend) -> None:
    def run(*tensors: Tensor) -> Tensor:
        y, normed = gated_residual_norm(*tensors, EPS, gate_activation="tanh", backend=backend.name)
        return (y * 2 + normed).sum(1)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (3, 5):
        ours = leaves(inputs((rows,), 6, "one"), backend.device, torch.float32)
        again = leaves(ours, backend.device, torch.float32)
        torch.testing.assert_close(compiled(*ours), run(*again))
        compiled(*ours).sum().backward()
        run(*again).sum().backward()
        for one, other in zip(ours, again, strict=True):
            torch.testing.assert_close(one.grad, other.grad)


def test_autocast_changes_nothing() -> None:
    tensors = inputs((2,), 4, "one")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = gated_residual_norm(*tensors, EPS)
    assert [result.dtype for result in results] == [torch.float32] * 2


def test_many_channels(backend) -> None:
    """More than the CUDA kernel holds in registers."""
    if backend.name == "cuda" or os.environ.get(simt_module.VARIABLE):
        tensors = [t.to(backend.device) for t in inputs((1,), 4097, "one")]
        error = NotImplementedError if backend.name == "cuda" else ValueError
        with pytest.raises(error, match="the CUDA kernel takes at most 4096 channels, got 4097"):
            gated_residual_norm(*tensors, EPS, backend=backend.name)
        return
    tensors = inputs((2,), 4097, "channel")
    results = gated_residual_norm(*tensors, EPS, backend=backend.name)
    torch.testing.assert_close(results, eager(*tensors))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.zeros(())}, ValueError, r"x must be \[..., C\], got shape \(\)"),
        (
            {"branch": torch.zeros(3, 4)},
            ValueError,
            r"x and branch must have the same shape, got \(2, 4\) and \(3, 4\)",
        ),
        (
            {"gate": torch.zeros(2)},
            ValueError,
            r"gate must be \[\], \[1\] or \[4\] for x of 4 channels, got shape \(2,\)",
        ),
        ({"gate": torch.zeros(1, 4)}, ValueError, r"gate must be .* got shape \(1, 4\)"),
        (
            {"norm_weight": torch.zeros(3)},
            ValueError,
            r"norm_weight must be \[4\] for x of 4 channels, got shape \(3,\)",
        ),
        ({"norm_bias": torch.zeros(1)}, ValueError, r"norm_bias must be \[4\] .* got shape"),
        ({"x": torch.zeros(2, 4).int()}, TypeError, "x must be float32, .* got int32"),
        ({"branch": torch.zeros(2, 4).half()}, TypeError, "x and branch must have the same dtype"),
        (
            {"norm_bias": torch.zeros(4).half()},
            TypeError,
            "gate, norm_weight and norm_bias must have the same dtype, "
            "got float32, float32 and float16",
        ),
        (
            {name: torch.zeros(4).half() for name in ("gate", "norm_weight", "norm_bias")},
            TypeError,
            "gate must be float32 for x of float32, got float16",
        ),
        (
            {name: torch.zeros(2, 4).half() for name in ("x", "branch")}
            | {name: torch.zeros(4).double() for name in ("gate", "norm_weight", "norm_bias")},
            TypeError,
            "gate must be float16 or float32 for x of float16, got float64",
        ),
        ({"gate": torch.zeros(1, device="meta")}, ValueError, "same device, got cpu, cpu, meta"),
        ({"eps": -1.0}, ValueError, "eps must be at least 0, got -1.0"),
        ({"eps": float("nan")}, ValueError, "eps must be at least 0, got nan"),
        (
            {"gate_activation": "sigmoid"},
            ValueError,
            "gate_activation must be 'raw' or 'tanh', got 'sigmoid'",
        ),
        ({"backend": "gpu"}, ValueError, "backend must be auto, reference, cpu or cuda, got 'gpu'"),
    ],
)
def test_errors(changes: dict, error: type[Exception], message: str) -> None:
    arguments = {
        "x": torch.zeros(2, 4),
        "branch": torch.zeros(2, 4),
        "gate": torch.zeros(1),
        "norm_weight": torch.zeros(4),
        "norm_bias": torch.zeros(4),
        "eps": EPS,
    } | changes
    with pytest.raises(error, match=f"^gated_residual_norm: .*{message}"):
        gated_residual_norm(**arguments)
