"""decode_attention and its cache against plain torch on concatenated keys, on every backend."""

import math
import os
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import simt_module
import torch
from torch import Tensor

from fastregion.ops import SharedPrefix, append_kv_, decode_attention, empty_kv, unpack_kv

SIMT = bool(os.environ.get(simt_module.VARIABLE))

# head width, query heads, kv heads
HEADS = [(8, 1, 1), (64, 8, 2), (72, 7, 1), (128, 4, 4)]
LENGTHS = (0, 1, 15, 16, 17, 270) if SIMT else (0, 1, 15, 16, 17, 511, 512, 1003)


class Cache(NamedTuple):
    """Plain tokens per sequence, and the buffers that hold them; free columns are NaN."""

    k: list[Tensor]  # [KV, length, D]
    v: list[Tensor]
    keys: Tensor
    values: Tensor
    lengths: Tensor


def int32(numbers, device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device=device)


def make_cache(backend, dtype, lengths, kv_heads: int, width: int, capacity: int = 0) -> Cache:
    capacity = capacity or max((*lengths, 1))
    keys, values = empty_kv(
        len(lengths), kv_heads, capacity, width, dtype=dtype, device=backend.device
    )
    keys.fill_(math.nan)
    values.fill_(math.nan)
    k, v = (
        [torch.randn(kv_heads, n, width).to(backend.device, dtype) for n in lengths]
        for _ in range(2)
    )
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    columns = torch.cat([torch.arange(n) for n in lengths])
    new = (torch.cat(tokens, dim=1).transpose(0, 1) for tokens in (k, v))
    places = (rows.to(backend.device), columns.to(backend.device))
    append_kv_(keys, values, *new, *places, backend=backend.name)
    return Cache(k, v, keys, values, int32(lengths, backend.device))


def eager(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """Tokens ``[n, H, D]`` at the end of keys ``[KV, length, D]``, in the dtype of the tensors."""
    n, heads, width = q.shape
    k, v = (x.repeat_interleave(heads // k.shape[0], dim=0) for x in (k, v))
    scores = (q.transpose(0, 1) @ k.mT) * (width**-0.5 if scale is None else scale)
    beyond = torch.ones_like(scores, dtype=torch.bool).tril(k.shape[1] - n).logical_not()
    scores = scores.masked_fill(beyond, -math.inf)
    weights = scores.softmax(-1).nan_to_num(0.0)  # rows that see nothing
    return (weights @ v).transpose(0, 1), scores.logsumexp(-1).transpose(0, 1)


def magnitude(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What rounding errors of the result are relative to: the sums over absolute values."""
    scale, group = q.shape[2] ** -0.5, q.shape[1] // k.shape[0]
    q = q.double().transpose(0, 1)
    k, v = (x.double().repeat_interleave(group, dim=0) for x in (k, v))
    seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device)
    seen = seen.tril(k.shape[1] - q.shape[1])
    weights = (scale * q @ k.mT).masked_fill(~seen, -math.inf).softmax(-1).nan_to_num(0.0)
    sizes = scale * q.abs() @ k.abs().mT + 1
    return ((weights * sizes) @ v.abs()).transpose(0, 1)


def check_all(check, result, q: Tensor, k: list[Tensor], v: list[Tensor], counts) -> None:
    """Results of all sequences against eager in the same dtype and in float64."""
    parts = q.split(list(counts))
    plain = [eager(*x) for x in zip(parts, k, v, strict=True)]
    exact = [eager(*(t.double() for t in x)) for x in zip(parts, k, v, strict=True)]
    out, logsumexp = result
    sums = torch.cat([magnitude(*x) for x in zip(parts, k, v, strict=True)])
    check(out, *(torch.cat([o for o, _ in way]) for way in (plain, exact)), sums)
    expected = torch.cat([lse for _, lse in exact])
    assert logsumexp.dtype == (torch.float64 if q.dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(logsumexp.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("width", "heads", "kv_heads"), HEADS)
def test_append_is_the_layout(backend, dtype, width: int, heads: int, kv_heads: int) -> None:
    cache = make_cache(backend, dtype, (0, 1, 15, 16, 35), kv_heads, width)
    assert cache.keys.shape == (5, kv_heads, 3, width // 2, 16, 2)
    assert cache.values.shape == (5, kv_heads, 3, 8, width, 2)
    k, v = unpack_kv(cache.keys, cache.values)
    for s in range(5):
        n = int(cache.lengths[s])
        assert torch.equal(k[s, :, :n], cache.k[s])
        assert torch.equal(v[s, :, :n], cache.v[s])
        assert k[s, :, n:].isnan().all()
        assert v[s, :, n:].isnan().all()
    column, d = 21, 5
    assert torch.equal(
        cache.keys[4, 0, column // 16, d // 2, column % 16, d % 2], k[4, 0, column, d]
    )
    assert torch.equal(
        cache.values[4, 0, column // 16, column % 16 // 2, d, column % 2], v[4, 0, column, d]
    )


@pytest.mark.parametrize(("width", "heads", "kv_heads"), HEADS)
def test_one_token_each(
    backend, dtype, width: int, heads: int, kv_heads: int, assert_no_worse_than_eager
) -> None:
    cache = make_cache(backend, dtype, LENGTHS, kv_heads, width)
    q = torch.randn(len(LENGTHS), heads, width).to(backend.device, dtype)
    result = decode_attention(q, cache.keys, cache.values, cache.lengths, backend=backend.name)
    check_all(assert_no_worse_than_eager, result, q, cache.k, cache.v, [1] * len(q))
    assert not result[0][0].any()
    assert (result[1][0] == -math.inf).all()


def test_blocks_of_queries(backend, dtype, assert_no_worse_than_eager) -> None:
    """Each token sees those before it; what follows it may be NaN."""
    lengths, counts, kv_heads, heads, width = (20, 3, 270, 17, 9), (20, 1, 5, 0, 2), 2, 6, 24
    cache = make_cache(backend, dtype, lengths, kv_heads, width)
    q = torch.randn(sum(counts), heads, width).to(backend.device, dtype)
    bounds = int32([0, *torch.tensor(counts).cumsum(0)], backend.device)
    args = (q, cache.keys, cache.values, cache.lengths)
    result = decode_attention(*args, cu_seqlens_q=bounds, backend=backend.name)
    check_all(assert_no_worse_than_eager, result, q, cache.k, cache.v, counts)

    cache.keys[0, :, 0, :, 12:] = math.nan
    cache.values[0, :, 0, 6:] = math.nan
    again = decode_attention(*args, cu_seqlens_q=bounds, backend=backend.name)
    for before, after in zip(result, again, strict=True):
        assert torch.equal(before[:12], after[:12])
        assert after[12:20].isnan().all()
        assert torch.equal(before[20:], after[20:])


@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 0, 18)])
def test_append_in_the_same_pass(backend, dtype, counts) -> None:
    """As append_kv_ followed by the operator, in rows out of order."""
    lengths, rows, kv_heads, heads, width = (3, 40, 275), (3, 0, 2), 2, 4, 40
    filled = [n - count for n, count in zip(lengths, counts, strict=True)]
    cache = make_cache(backend, dtype, [filled[1], 5, filled[2], filled[0]], kv_heads, width, 288)
    new = torch.randn(sum(counts), heads + 2 * kv_heads, width).to(backend.device, dtype)
    q, k_new, v_new = new.split((heads, kv_heads, kv_heads), dim=1)
    sequence = torch.arange(3).repeat_interleave(torch.tensor(counts))
    columns = torch.cat([torch.arange(a, b) for a, b in zip(filled, lengths, strict=True)])
    places = (torch.tensor(rows)[sequence].to(backend.device), columns.int().to(backend.device))
    lengths, rows = int32(lengths, backend.device), torch.tensor(rows).to(backend.device)
    bounds = int32([0, *torch.tensor(counts).cumsum(0)], backend.device)
    settings = {
        "rows": rows,
        "cu_seqlens_q": None if counts == (1, 1, 1) else bounds,
        "backend": backend.name,
    }
    keys, values = cache.keys.clone(), cache.values.clone()
    version = keys._version
    result = decode_attention(q, keys, values, lengths, k_new=k_new, v_new=v_new, **settings)
    assert keys._version > version
    append_kv_(cache.keys, cache.values, k_new, v_new, *places, backend=backend.name)
    for ours, expected in ((keys, cache.keys), (values, cache.values)):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)
    expected = decode_attention(q, cache.keys, cache.values, lengths, **settings)
    assert torch.equal(result[0], expected[0])
    assert torch.equal(result[1], expected[1])
    assert result[0].isfinite().all()


@pytest.mark.parametrize("counts", [(1,) * 8, (1, 0, 5, 2, 1, 1, 3, 1)])
def test_shared_prefixes(backend, dtype, counts, assert_no_worse_than_eager) -> None:
    """Groups of 5, 1 and 0, and two sequences without a prefix, one of them empty."""
    kv_heads, heads, width = 2, 6, 24
    of, lengths = [2, -1, 2, 2, 0, 2, -1, 2], [3, 5, 17, 0, 0, 33, 0, 7]
    lengths = [max(n, count) if count > 1 else n for n, count in zip(lengths, counts, strict=True)]
    own = make_cache(backend, dtype, lengths, kv_heads, width, 48)
    shared = make_cache(backend, dtype, (270, 21, 333), kv_heads, width)
    of = int32(of, backend.device)
    prefix = SharedPrefix(shared.keys, shared.values, shared.lengths, of)
    q = torch.randn(sum(counts), heads, width).to(backend.device, dtype)
    bounds = None
    if max(counts) > 1:
        bounds = int32([0, *torch.tensor(counts).cumsum(0)], backend.device)
    result = decode_attention(
        q, own.keys, own.values, own.lengths, cu_seqlens_q=bounds, prefix=prefix,
        backend=backend.name,
    )  # fmt: skip
    k, v = (
        [tokens[s] if of[s] < 0 else torch.cat((before[of[s]], tokens[s]), dim=1) for s in range(8)]
        for tokens, before in ((own.k, shared.k), (own.v, shared.v))
    )
    if bounds is None:  # one token sees the whole prefix also where its row is empty
        check_all(assert_no_worse_than_eager, result, q, k, v, counts)
    else:
        fine = [s for s in range(8) if lengths[s] >= counts[s]]
        parts = [torch.cat([x.split(list(counts))[s] for s in fine]) for x in (q, *result)]
        k, v = ([x[s] for s in fine] for x in (k, v))
        check_all(assert_no_worse_than_eager, parts[1:], parts[0], k, v, [counts[s] for s in fine])


def test_a_prefix_changes_nothing_but_rounding(backend) -> None:
    """Any split of a sequence into prefix and own columns gives the same result."""
    whole = make_cache(backend, torch.float32, (300,), 1, 16)
    q = torch.randn(1, 4, 16, device=backend.device)
    expected = decode_attention(q, whole.keys, whole.values, whole.lengths, backend=backend.name)
    for split in (0, 1, 16, 255, 256, 299, 300):
        parts = []
        for begin, end in ((0, split), (split, 300)):
            keys, values = empty_kv(1, 1, 304, 16, dtype=q.dtype, device=q.device)
            places = torch.zeros(end - begin).int(), torch.arange(end - begin)
            new = (x[0][:, begin:end].transpose(0, 1) for x in (whole.k, whole.v))
            append_kv_(keys, values, *new, *(x.to(q.device) for x in places), backend=backend.name)
            parts.append((keys, values, int32([end - begin], q.device)))
        prefix = SharedPrefix(*parts[0], int32([0], q.device))
        result = decode_attention(q, *parts[1], prefix=prefix, backend=backend.name)
        for ours, other in zip(result, expected, strict=True):
            torch.testing.assert_close(ours, other, rtol=2e-6, atol=2e-6)


def test_large_scores(backend, dtype) -> None:
    """Neither overflow nor a lost maximum, wherever it lies."""
    cache = make_cache(backend, dtype, (530, 530, 530), 1, 8)
    q = torch.ones(3, 1, 8).to(backend.device, dtype)
    for row, column in enumerate((0, 300, 529)):
        cache.keys[row, 0, column // 16, :, column % 16] = 60.0
    out, logsumexp = decode_attention(
        q, cache.keys, cache.values, cache.lengths, scale=4.0, backend=backend.name
    )
    for row, column in enumerate((0, 300, 529)):
        assert torch.equal(out[row], cache.v[row][:, column])
    assert torch.equal(logsumexp, torch.full_like(logsumexp, 4.0 * 8 * 60))


def test_nothing_but_scores_of_minus_infinity(backend) -> None:
    """As from cross_attention: 0, where a plain softmax gives NaN."""
    cache = make_cache(backend, torch.float32, (5, 3), 1, 8)
    cache.keys[0, ..., :5, :] = -math.inf
    q = torch.ones(2, 2, 8, device=backend.device)
    args = (q, cache.keys, cache.values, cache.lengths)
    out, logsumexp = decode_attention(*args, backend=backend.name)
    assert not out[0].any()
    assert (logsumexp[0] == -math.inf).all()
    expected = eager(q[1:], cache.k[1], cache.v[1])
    torch.testing.assert_close((out[1:], logsumexp[1:]), expected)


def test_layouts_and_empty(backend) -> None:
    cache = make_cache(backend, torch.float32, (5, 20), 2, 16)
    args = (cache.keys, cache.values, cache.lengths)
    q = torch.randn(2, 16, 4, device=backend.device).transpose(1, 2)
    result = decode_attention(q, *args, backend=backend.name)
    same = decode_attention(q.contiguous(), *args, backend=backend.name)
    torch.testing.assert_close(result[0], same[0])
    none = int32([], backend.device)
    out, logsumexp = decode_attention(q[:0], *args[:2], none, backend=backend.name)
    assert out.shape == (0, 4, 16)
    assert logsumexp.shape == (0, 4)
    bounds = int32([0, 0, 0], backend.device)
    out, _ = decode_attention(q[:0], *args, cu_seqlens_q=bounds, backend=backend.name)
    assert out.shape == (0, 4, 16)
    append_kv_(*args[:2], q[:0, :2], q[:0, :2], none, none, backend=backend.name)


def apart(numbers: Tensor) -> Tensor:
    """The same numbers at every third place of a longer tensor."""
    longer = numbers.new_full((3 * len(numbers),), 1)
    longer[::3] = numbers
    return longer[::3]


@pytest.mark.parametrize("rows_dtype", [torch.int32, torch.int64], ids=str)
def test_strided_numbers(backend, rows_dtype: torch.dtype) -> None:
    own = make_cache(backend, torch.float32, (5, 0, 20, 17), 2, 16)
    shared = make_cache(backend, torch.float32, (9, 33), 2, 16)
    q = torch.randn(6, 4, 16, device=backend.device)
    lengths, bounds, of = (
        int32(numbers, backend.device) for numbers in ([20, 5, 17], [0, 3, 4, 6], [1, -1, 0])
    )
    rows = torch.tensor([2, 0, 3], dtype=rows_dtype, device=backend.device)

    def run(change) -> tuple[Tensor, Tensor]:
        prefix = SharedPrefix(shared.keys, shared.values, change(shared.lengths), change(of))
        return decode_attention(
            q, own.keys, own.values, change(lengths), rows=change(rows),
            cu_seqlens_q=change(bounds), prefix=prefix, backend=backend.name,
        )  # fmt: skip

    for ours, expected in zip(run(apart), run(torch.clone), strict=True):
        assert torch.equal(ours, expected)


def example(backend, *, requires_grad: bool = False):
    cache = make_cache(backend, torch.float32, (5, 20, 0), 1, 8, 32)
    shared = make_cache(backend, torch.float32, (18,), 1, 8)
    q = torch.randn(3, 2, 8, device=backend.device, requires_grad=requires_grad)
    k_new, v_new = torch.randn(2, 3, 1, 8, device=backend.device)
    lengths = int32([6, 21, 1], backend.device)
    of = int32([0, -1, 0], backend.device)
    return cache, [shared.keys, shared.values, shared.lengths, of], q, k_new, v_new, lengths


def test_opcheck(backend) -> None:
    cache, prefix, q, k_new, v_new, lengths = example(backend)
    rows = torch.arange(3, device=backend.device)
    operators = torch.ops.fastregion
    places = (rows, lengths - 1, backend.name)
    cache.keys.nan_to_num_(0.0)  # opcheck compares, and NaN differs from NaN
    cache.values.nan_to_num_(0.0)
    new = (cache.keys, cache.values, k_new, v_new)
    torch.library.opcheck(operators.append_kv_.default, (*new, *places))
    settings = (lengths, None, rows, prefix, 0.3, backend.name)
    torch.library.opcheck(
        operators.decode_attention.default, (q, cache.keys, cache.values, *settings)
    )
    torch.library.opcheck(operators.decode_attention_.default, (q, *new, *settings))


def test_compiles_as_one_graph(backend) -> None:
    """The mutation of the cache included."""
    cache, prefix, q, k_new, v_new, lengths = example(backend)

    def run(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out, _ = decode_attention(
            q * 2, keys, values, lengths, prefix=SharedPrefix(*prefix), k_new=k_new, v_new=v_new,
            backend=backend.name,
        )  # fmt: skip
        append_kv_(keys, values, k_new, v_new, lengths * 0, lengths, backend=backend.name)
        return out + 1

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    buffers = [(cache.keys.clone(), cache.values.clone()) for _ in range(2)]
    with torch.no_grad():
        torch.testing.assert_close(compiled(q, *buffers[0]), run(q, *buffers[1]))
    for ours, other in zip(*buffers, strict=True):
        torch.testing.assert_close(ours, other, equal_nan=True)


@pytest.mark.gpu
def test_steps_of_a_cuda_graph() -> None:
    """Lengths are read on the device: one captured step serves for all."""
    cuda = SimpleNamespace(name="cuda", device=torch.device("cuda"))
    cache = make_cache(cuda, torch.bfloat16, (5, 253), 2, 64, 320)
    lengths = cache.lengths + 1
    q = torch.randn(2, 8, 64, device="cuda").bfloat16()
    k_new, v_new = torch.randn(2, 2, 2, 64, device="cuda").bfloat16()

    def step() -> tuple[Tensor, Tensor]:
        return decode_attention(
            q, cache.keys, cache.values, lengths, k_new=k_new, v_new=v_new, backend="cuda"
        )

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    for _ in range(5):
        for tensor in (q, k_new, v_new):
            tensor.normal_()
        graph.replay()
        expected = decode_attention(q, cache.keys, cache.values, lengths, backend="reference")
        torch.testing.assert_close(result[0], expected[0], rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(result[1], expected[1], rtol=1e-5, atol=1e-5)
        lengths += 1


@pytest.mark.gpu
def test_caches_between_the_loads_of_the_cuda_kernel() -> None:
    """Vectors cannot be read there: the reference does, unless the kernel is asked for."""
    cuda = SimpleNamespace(name="cuda", device=torch.device("cuda"))
    cache = make_cache(cuda, torch.float32, (5, 20), 1, 8)
    longer = torch.empty(cache.keys.numel() + 1, device="cuda")[1:].view(cache.keys.shape)
    moved = longer.copy_(cache.keys)
    q = torch.randn(2, 2, 8, device="cuda")
    with pytest.raises(NotImplementedError, match="caches that begin at multiples of 16 bytes"):
        decode_attention(q, moved, cache.values, cache.lengths, backend="cuda")
    result = decode_attention(q, moved, cache.values, cache.lengths)
    expected = decode_attention(q, cache.keys, cache.values, cache.lengths, backend="cuda")
    torch.testing.assert_close(result, expected)


def test_no_gradients(backend) -> None:
    cache, _, q, *_, lengths = example(backend, requires_grad=True)
    with pytest.raises(ValueError, match=r"inference, but q requires .* torch.no_grad\(\)"):
        decode_attention(q, cache.keys, cache.values, lengths, backend=backend.name)
    with torch.inference_mode():
        decode_attention(q, cache.keys, cache.values, lengths, backend=backend.name)
