"""cross_attention against a literal loop over sequences and heads, on every backend."""

import math
import os

import pytest
import simt_module
import torch
from torch import Tensor

from fastregion.ops import cross_attention
from fastregion.ops.cross_attention_reference import cross_attention_reference

# batch, queries, keys, heads, key-value heads, width of a head
SHAPES = [
    (1, 1, 1, 1, 1, 8),
    (2, 5, 7, 2, 1, 8),
    (1, 17, 67, 4, 2, 72),
    (2, 33, 16, 3, 3, 24),
    (1, 65, 49, 2, 1, 64),
    (1, 3, 5, 1, 1, 256),
]
if not os.environ.get(simt_module.VARIABLE):  # several blocks of queries and of keys on the CPU
    SHAPES.append((1, 70, 530, 2, 1, 16))
MASKS = ["none", "causal", "bias", "causal and bias"]


def eager(q, k, v, bias=None, causal=False, scale=None) -> tuple[Tensor, Tensor]:
    """One sequence, ``[N, H, D]``, head by head, everything in the dtype of q."""
    group, scale = q.shape[1] // k.shape[1], scale or q.shape[2] ** -0.5
    i, j = torch.arange(len(q))[:, None], torch.arange(len(k))
    visible = torch.ones(len(q), len(k), dtype=torch.bool)
    if causal:
        visible = j <= i + len(k) - len(q)
    if bias is not None:
        visible = visible & (bias.detach().cpu() > -math.inf)
    visible = visible.to(q.device)
    none = ~visible.any(1, keepdim=True)
    outs, normalisers = [], []
    for head in range(q.shape[1]):
        scores = scale * (q[:, head] @ k[:, head // group].T)
        if bias is not None:
            scores = scores + bias.masked_fill(bias == -math.inf, 0).to(scores.dtype)
        scores = scores.masked_fill(~visible, -math.inf)
        probabilities = scores.masked_fill(none, 0).softmax(1).masked_fill(none, 0)
        outs.append(probabilities @ v[:, head // group])
        normalisers.append(
            scores.masked_fill(none, 0).logsumexp(1).masked_fill(none[:, 0], -math.inf)
        )
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.stack(outs, 1), torch.stack(normalisers, 1).to(wide)


def eager_batch(q, k, v, bias=None, causal=False) -> tuple[Tensor, Tensor]:
    biases = [None] * len(q) if bias is None else bias
    each = [eager(*x, causal) for x in zip(q, k, v, biases, strict=True)]
    return torch.stack([out for out, _ in each]), torch.stack([lse for _, lse in each])


def make(shape, mask: str, dtype: torch.dtype, device="cpu") -> tuple[list[Tensor], bool]:
    """q, k, v and perhaps a bias as leaves, and whether the mask is causal."""
    batch, queries, keys, heads, kv_heads, width = shape
    sizes = [(queries, heads, width), (keys, kv_heads, width), (keys, kv_heads, width)]
    tensors = [torch.randn(batch, *size).to(device, dtype) for size in sizes]
    if "bias" in mask:
        bias = torch.randn(batch, keys)
        bias[:, ::3] = -math.inf
        tensors.append(bias.to(device, torch.promote_types(dtype, torch.float32)))
    return [x.requires_grad_() for x in tensors], "causal" in mask


def magnitudes(inputs, causal, grad_out, grad_lse) -> list[Tensor]:
    """What rounding errors are relative to: the sums over absolute values, in float64."""
    q, k, v, *bias = (x.detach().double() for x in inputs)
    group, scale = q.shape[2] // k.shape[2], q.shape[3] ** -0.5
    wide = [x.repeat_interleave(group, 2).transpose(1, 2).abs() for x in (k, v)]
    size = scale * torch.einsum("bihd,bjhd->bhij", q.abs(), wide[0].transpose(1, 2)) + 1
    visible = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device)
    visible = visible.tril(k.shape[1] - q.shape[1]) if causal else visible
    scores = scale * torch.einsum("bihd,bjhd->bhij", q, k.repeat_interleave(group, 2))
    if bias:
        scores = scores + bias[0][:, None, None]
        size = size + bias[0].nan_to_num(neginf=0).abs()[:, None, None]
    scores = scores.masked_fill(~visible, -math.inf)
    p = scores.softmax(-1).nan_to_num(0) * size
    out = p @ wide[1]
    grad = grad_out.double().transpose(1, 2).abs()
    offset = (grad * out).sum(-1, keepdim=True) + grad_lse.double().transpose(1, 2)[..., None].abs()
    ds = p * (grad @ wide[1].transpose(2, 3) + offset)
    by_group = (k.shape[2], group)
    dk = scale * (ds.transpose(2, 3) @ q.transpose(1, 2).abs()).unflatten(1, by_group).sum(2)
    dv = (p.transpose(2, 3) @ grad).unflatten(1, by_group).sum(2)
    result = [out, scale * ds @ wide[0], dk, dv]
    result = [*result, ds.sum((1, 2))] if bias else result
    # Half an eps of the dtype: out is rounded before the gradient reads it, and kernels for tensor
    # cores round probabilities and the gradient of scores. The test's rule allows four of float32.
    eps = [torch.finfo(dtype).eps for dtype in (inputs[0].dtype, torch.float32)]
    result = [x * max(1, eps[0] / 2 / (4 * eps[1])) for x in result]
    return [result[0], size.max(), *result[1:]]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_reference_is_the_definition(shape, mask) -> None:
    inputs, causal = make(shape, mask, torch.float64)
    q, k, v, bias = (*inputs, None)[:4]
    results = cross_attention_reference(q, k, v, bias, None, None, shape[5] ** -0.5, causal)
    torch.testing.assert_close(results, eager_batch(*inputs, causal=causal))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(backend, dtype, shape, mask, assert_no_worse_than_eager) -> None:
    inputs, causal = make(shape, mask, dtype, backend.device)
    plain, wide = ([x.detach().clone().requires_grad_() for x in inputs] for _ in range(2))
    wide = [x.detach().double().requires_grad_() for x in wide]
    results = cross_attention(*inputs, causal=causal, backend=backend.name)
    expected, exact = (eager_batch(*x, causal=causal) for x in (plain, wide))
    grads = [torch.randn(x.shape).to(x) for x in results]
    sums = magnitudes(inputs, causal, *grads)
    seen = results[1] > -math.inf
    assert torch.equal(seen, exact[1] > -math.inf)
    assert not results[0][~seen].any()
    assert_no_worse_than_eager(results[0], expected[0], exact[0], sums[0])
    assert_no_worse_than_eager(*(x[1][seen] for x in (results, expected, exact)), sums[1])
    for outs, leaves in ((results, inputs), (expected, plain), (exact, wide)):
        parts = [outs[0] * grads[0], outs[1].masked_fill(~seen, 0) * grads[1]]
        (parts[0].to(outs[0].dtype).sum() + parts[1].sum()).backward()
        assert all(x.grad is not None for x in leaves)
    for ours, theirs, truth, size in zip(inputs, plain, wide, sums[2:], strict=True):
        assert_no_worse_than_eager(ours.grad, theirs.grad, truth.grad, size)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_packed(backend, dtype, causal: bool, index_dtype: torch.dtype) -> None:
    """Ragged sequences, empty ones on either side among them, have what they have alone."""
    if index_dtype == torch.int64 and dtype != torch.float32:
        pytest.skip("the dtype of the boundaries is met once")
    lengths_q, lengths_k = (3, 0, 17, 5, 0, 1), (7, 4, 20, 0, 0, 1)
    shapes = ((sum(lengths_q), 4, 16), (sum(lengths_k), 2, 16), (sum(lengths_k), 2, 16))
    packed = [torch.randn(shape).to(backend.device, dtype).requires_grad_() for shape in shapes]
    bias = torch.randn(sum(lengths_k)).to(backend.device)
    bias[2::5] = -math.inf
    wide_bias = bias.to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    leaves = [*packed, wide_bias]
    bounds = [
        torch.tensor([0, *lengths]).cumsum(0).to(backend.device, index_dtype)
        for lengths in (lengths_q, lengths_k)
    ]
    results = cross_attention(
        *leaves,
        causal=causal,
        cu_seqlens_q=bounds[0],
        cu_seqlens_k=bounds[1],
        backend=backend.name,
    )
    grads = [torch.randn(x.shape).to(x) for x in results]
    total = (results[0] * grads[0]).sum() + (results[1].nan_to_num(neginf=0) * grads[1]).sum()
    ours = torch.autograd.grad(total, leaves)

    q, k, v, bias = (
        x.split(lengths) for x, lengths in zip(leaves, (lengths_q, *[lengths_k] * 3), strict=True)
    )
    alone = []
    for one in zip(q, k, v, bias, strict=True):
        out, lse = cross_attention(*(x[None] for x in one), causal=causal, backend=backend.name)
        alone.append((out[0], lse[0]))
    expected = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    total = (expected[0] * grads[0]).sum() + (expected[1].nan_to_num(neginf=0) * grads[1]).sum()
    for one, other in zip(
        (*results, *ours), (*expected, *torch.autograd.grad(total, leaves)), strict=True
    ):
        tolerance = {}
        if dtype.itemsize == 2:  # gradients read out, which may be rounded the other way
            eps = torch.finfo(dtype).eps
            size = other.detach().nan_to_num(neginf=0).abs().max().item()
            tolerance = {"rtol": eps, "atol": 2 * eps * max(1, size)}
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize(
    "shape",
    [(0, 3, 4, 2, 1, 8), (2, 0, 4, 2, 1, 8), (2, 3, 0, 2, 1, 8), (1, 0, 0, 1, 1, 8)],
    ids=["no batch", "no queries", "no keys", "neither"],
)
def test_empty(backend, shape) -> None:
    inputs, _ = make(shape, "bias", torch.float32, backend.device)
    out, lse = cross_attention(*inputs, backend=backend.name)
    assert out.shape == inputs[0].shape
    assert not out.any()
    assert (lse == -math.inf).all()
    assert lse.shape == out.shape[:-1]
    for grad, leaf in zip(torch.autograd.grad(out.sum(), inputs), inputs, strict=True):
        assert grad.shape == leaf.shape
        assert not grad.any()


def test_layouts(backend, dtype) -> None:
    """Views give the bits of their contiguous copies: parts of a projection, heads first, wide."""
    fused = torch.randn(2, 19, 3, 4, 24).to(backend.device, dtype)
    heads_first = [torch.randn(2, 4, 19, 24).to(backend.device, dtype) for _ in range(3)]
    for views in (
        fused.unbind(2),
        [x.transpose(1, 2) for x in heads_first],
        [x[..., 8:].contiguous().expand(2, 19, 4, 16) for x in fused[:, :, :, :1].unbind(2)],
        [x[..., ::3] for x in fused.unbind(2)],
    ):
        leaves = [x.detach().requires_grad_() for x in views]
        dense = [x.detach().contiguous().requires_grad_() for x in views]
        grad = torch.randn(2, 4, 19, views[0].shape[3]).to(backend.device, dtype).transpose(1, 2)
        bits = []
        for q, k, v in (leaves, dense):
            out, lse = cross_attention(q, k, v, causal=True, backend=backend.name)
            bits.append([out, lse, *torch.autograd.grad(out, (q, k, v), grad)])
            grad = grad.contiguous()
        assert all(torch.equal(one, other) for one, other in zip(*bits, strict=True))
    q, k, v = (x.requires_grad_() for x in fused.unbind(2))
    out, _ = cross_attention(q, k, v, backend=backend.name)
    expanded = torch.autograd.grad(out.sum(), q, retain_graph=True)[0]  # strides of 0
    dense_grad = torch.autograd.grad(out, q, torch.ones_like(out))[0]
    assert torch.equal(expanded, dense_grad)


def test_large_scores(backend) -> None:
    """Scores of thousands neither overflow nor lose the largest."""
    q, k, v = (torch.randn(1, 9, 2, 16, device=backend.device) for _ in range(3))
    out, lse = cross_attention(200 * q, 50 * k, v, backend=backend.name)
    exact = eager_batch(200 * q.double(), 50 * k.double(), v.double())
    torch.testing.assert_close(lse.double(), exact[1], rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(out.double(), exact[0], rtol=1e-2, atol=1e-2)


def test_same_bits_twice(backend) -> None:
    inputs, _ = make((2, 33, 49, 2, 1, 24), "bias", torch.float32, backend.device)
    bits = []
    for _ in range(2):
        results = cross_attention(*inputs, causal=True, backend=backend.name)
        bits.append([*results, *torch.autograd.grad(results[0].sum(), inputs)])
    assert all(torch.equal(one, other) for one, other in zip(*bits, strict=True))


@pytest.mark.parametrize("mask", MASKS)
def test_gradcheck(backend, mask: str) -> None:
    if backend.name == "cuda":
        pytest.skip("checked through float32 against the reference")
    inputs, causal = make((1, 3, 4, 2, 1, 8), mask, torch.float64)
    if len(inputs) == 4:  # numbers to differentiate by: no -inf
        inputs[3] = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *x: cross_attention(*x, causal=causal, backend=backend.name), inputs
    )
    only_normaliser = torch.autograd.grad(
        cross_attention(*inputs, backend=backend.name)[1].sum(), inputs[:2]
    )
    assert all(grad.any() for grad in only_normaliser)
    out, _ = cross_attention(*inputs, backend=backend.name)
    (grad,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"^cross_attention: second derivatives"):
        grad.sum().backward()


@pytest.mark.parametrize("mask", ["bias", "causal and bias"])
def test_only_wanted_gradients(backend, dtype, mask: str) -> None:
    """Each alone has the bits that it has among all, and nothing else is made."""
    inputs, causal = make((2, 33, 49, 4, 2, 24), mask, dtype, backend.device)
    results = cross_attention(*inputs, causal=causal, backend=backend.name)
    grads = [torch.randn(x.shape).to(x) for x in results]
    everything = torch.autograd.grad(results, inputs, grads, retain_graph=True)
    tensors = [x.detach() for x in (*grads, *inputs)], [x.detach() for x in results]
    for place in range(4):
        wanted = [place == other for other in range(4)]
        leaves = [x.detach().requires_grad_(w) for x, w in zip(inputs, wanted, strict=True)]
        again = cross_attention(*leaves, causal=causal, backend=backend.name)
        (alone,) = torch.autograd.grad(again, leaves[place], grads)
        assert torch.equal(alone, everything[place])
        made = torch.ops.fastregion.cross_attention_backward(
            *tensors[0], None, None, *tensors[1], 24**-0.5, causal, wanted, backend.name
        )
        assert [x.numel() > 0 for x in made] == wanted


def test_opcheck(backend) -> None:
    inputs, _ = make((2, 5, 7, 2, 1, 8), "bias", torch.float32, backend.device)
    operator = torch.ops.fastregion.cross_attention.default
    torch.library.opcheck(operator, (*inputs, None, None, 0.3, True, backend.name))
    packed = [x.detach()[0].requires_grad_() for x in inputs[:3]]
    bounds = [torch.tensor([0, 3, n], device=backend.device) for n in (5, 7)]
    torch.library.opcheck(operator, (*packed, None, *bounds, 0.3, False, backend.name))
    results = [x.detach() for x in cross_attention(*inputs, backend=backend.name)]
    leaves = [x.detach() for x in inputs]
    settings = (None, None, *results, 0.3, False)
    backward = torch.ops.fastregion.cross_attention_backward.default
    some = (*results, *leaves, *settings, [True, False, True, True], backend.name)
    torch.library.opcheck(backward, some)
    tensors = [x.bfloat16() for x in (results[0], *leaves[:3])]
    settings = (None, None, tensors[0], results[1], 0.3, False, [True] * 3 + [False], backend.name)
    torch.library.opcheck(backward, (tensors[0], None, *tensors[1:], None, *settings))


def test_compiles_as_one_graph(backend) -> None:
    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        out, lse = cross_attention(q * 2, k, v, bias, causal=True, backend=backend.name)
        return out.sum(-1) + lse

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for keys in (9, 11):
        inputs, _ = make((2, 3, keys, 2, 1, 8), "bias", torch.float32, backend.device)
        again = [x.detach().clone().requires_grad_() for x in inputs]
        torch.testing.assert_close(compiled(*inputs), run(*again))
        grads, expected = (
            torch.autograd.grad(function(*leaves).sum(), leaves)
            for function, leaves in ((compiled, inputs), (run, again))
        )
        torch.testing.assert_close(grads, expected)


def test_autocast_changes_nothing() -> None:
    q, k, v = (torch.randn(1, 3, 2, 8) for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, lse = cross_attention(q, k, v)
    assert out.dtype == lse.dtype == torch.float32
    assert torch.equal(out, cross_attention(q, k, v)[0])


def test_other_widths_run_on_the_reference(backend) -> None:
    """The kernels take multiples of 8 up to 256; a backend by name says so."""
    q, k, v = (torch.randn(1, 4, 2, 12, device=backend.device) for _ in range(3))
    out, _ = cross_attention(q, k, v)
    torch.testing.assert_close(out, eager_batch(q, k, v)[0])
    if backend.name != "reference":
        with pytest.raises(NotImplementedError, match="multiple of 8 up to 256, got 12"):
            cross_attention(q, k, v, backend=backend.name)


@pytest.mark.parametrize("operator", ["forward", "backward"])
def test_threads_change_no_bit(backend, operator: str) -> None:
    if backend.name != "cpu" or os.environ.get(simt_module.VARIABLE):
        pytest.skip("a promise of the CPU kernels")
    inputs, _ = make((2, 131, 150, 4, 2, 72), "bias", torch.float32)
    before, bits = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results = cross_attention(*inputs, causal=True, backend="cpu")
            if operator == "backward":
                results = torch.autograd.grad(results[0].sum() + results[1].sum(), inputs)
            bits.append(results)
    finally:
        torch.set_num_threads(before)
    for other in bits[1:]:
        assert all(torch.equal(x, y) for x, y in zip(bits[0], other, strict=True))


@pytest.mark.slow
def test_more_than_31_bits(backend) -> None:
    """Offsets into 2.2e9 elements: tokens far apart, so that little memory is ever touched."""
    if backend.name == "reference":
        pytest.skip("it would copy the rows")
    stride = 2_200_000_000 // 7
    stored = torch.empty(7 * stride + 8, dtype=torch.bfloat16, device=backend.device)
    far = stored.as_strided((1, 8, 1, 8), (8 * stride, stride, 8, 1))
    near = torch.randn(1, 8, 1, 8).to(backend.device, torch.bfloat16)
    far.copy_(near)
    expected = cross_attention(near, near, near, backend=backend.name)
    actual = cross_attention(far, far, far, backend=backend.name)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))
