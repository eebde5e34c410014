"""Softmax attention in one pass over the keys: no score matrix in memory, ragged batches, GQA.

    s[i, h, j] = scale * q[i, h, :] . k[j, h // group, :] + key_bias[j]
    out[i, h, :] = sum over j of softmax_j(s)[i, h, j] * v[j, h // group, :]
    logsumexp[i, h] = log(sum over j of exp(s[i, h, j]))

for every sequence by itself. Shapes, dense: ``q [B, Nq, H, D]``, ``k`` and ``v [B, Nk, Hkv, D]``
with ``H = group * Hkv``, ``key_bias [B, Nk]``; ``out`` is like ``q``, ``logsumexp [B, Nq, H]``.
Packed: the sequences lie one behind the other, ``q [Tq, H, D]``, ``k`` and ``v [Tk, Hkv, D]``,
``key_bias [Tk]``, and ``cu_seqlens_q``, ``cu_seqlens_k [S + 1]`` are their boundaries (int32 or
int64): sequence s owns the rows ``cu_seqlens[s]`` to ``cu_seqlens[s + 1]``. The width of a head
lies contiguous; any other strides are read in place, such as a slice of a fused projection or
``[B, H, N, D]`` transposed.

With ``causal`` query i of a sequence sees the keys ``j <= i + num_keys - num_queries`` (the ends
are aligned). A bias of -inf hides a key. A query that sees no key gives ``out = 0``,
``logsumexp = -inf`` and no gradient. What lies in a key or value that a query does not see, NaN and
infinity included, never reaches that query, nor does such a query reach their gradients.

Dtypes: ``q``, ``k``, ``v`` float32, float64, float16 or bfloat16, all the same, and so is ``out``;
``logsumexp`` is float32 (float64 for float64), and ``key_bias`` is read in that dtype. Numerics:
scores, exponentials and sums in float32 (float64 for float64), rounded once; kernels for tensor
cores, and for CPUs with products of bfloat16 pairs, round the probabilities to the dtype of ``v``.
Autocast: none, the dtype given is the dtype computed with. Differentiable in ``q``, ``k``, ``v``
and ``key_bias``, through both results, once. Deterministic; on the CPU the bits do not depend on
the number of threads. Devices: any (reference); see ``fastregion.ops.OPERATORS`` for kernels, which
take D a multiple of 8 up to 256. ``cu_seqlens`` are checked on the CPU; on other devices that would
need a synchronisation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.checks import (
    accumulation_dtype,
    check_floating,
    check_same_device,
    check_same_dtype,
    dtype_name,
)
from fastregion.ops.cross_attention_native import Crossing
from fastregion.ops.cross_attention_reference import (
    cross_attention_backward_reference,
    cross_attention_reference,
)
from fastregion.ops.native import run
from fastregion.ops.registration import refuse_second_gradient, register, register_gradient

_LARGEST_WIDTH = 256


def cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of queries to keys, and the logarithm of its normaliser.

    Args:
        q: ``[B, Nq, H, D]``, or ``[Tq, H, D]`` for packed sequences.
        k: ``[B, Nk, Hkv, D]`` or ``[Tk, Hkv, D]``; Hkv divides H.
        v: Like ``k``.
        key_bias: ``[B, Nk]`` or ``[Tk]``, added to the scores of a key; -inf hides it.
        scale: Factor of the scores; ``D ** -0.5`` when left out.
        causal: Whether a query sees only the keys up to its own place, the ends aligned.
        cu_seqlens_q: ``[S + 1]`` boundaries of packed queries, int32 or int64.
        cu_seqlens_k: ``[S + 1]`` boundaries of packed keys.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``out`` in shape and dtype of ``q``, and ``logsumexp`` in its shape without D, float32
        (float64 for float64); ``merge_attention`` joins the results of two sets of keys.

    Raises:
        TypeError: Dtypes that are not floating or not the same, or boundaries that are not int32
            or int64.
        ValueError: Shapes that do not fit each other, one of the boundaries without the other,
            (on the CPU) boundaries that do not start at 0, fall, or do not end at the number of
            rows, or tensors on different devices.
        NotImplementedError: A native backend by name, for a D it has no kernel for.
    """
    name = "cross_attention"
    packed = cu_seqlens_q is not None
    if packed != (cu_seqlens_k is not None):
        given, other = ("q", "k") if packed else ("k", "q")
        raise ValueError(
            f"{name}: cu_seqlens_q and cu_seqlens_k go together, got cu_seqlens_{given} "
            f"without cu_seqlens_{other}"
        )
    _check_shapes(q, k, v, key_bias, packed)
    check_floating(name, q=q, k=k, v=v, key_bias=key_bias)
    check_same_dtype(name, q=q, k=k, v=v)
    check_same_device(
        name,
        q=q,
        k=k,
        v=v,
        key_bias=key_bias,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
    )
    if cu_seqlens_q is not None and cu_seqlens_k is not None:
        _check_boundaries(cu_seqlens_q, cu_seqlens_k)
    if key_bias is not None:
        key_bias = key_bias.to(accumulation_dtype(q.dtype))
    if scale is None:
        scale = q.shape[-1] ** -0.5
    results: tuple[Tensor, Tensor] = torch.ops.fastregion.cross_attention(
        q, k, v, key_bias, cu_seqlens_q, cu_seqlens_k, scale, causal, backend or ""
    )
    return results


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, packed: bool) -> None:
    name = "cross_attention"
    rank, layout, keys = (3, "[Tq, H, D]", "[Tk]") if packed else (4, "[B, Nq, H, D]", "[B, Nk]")
    if q.dim() != rank:
        kind = "of packed sequences" if packed else "without cu_seqlens"
        raise ValueError(f"{name}: q {kind} must be {layout}, got shape {tuple(q.shape)}")
    if k.dim() != rank or k.shape[:-3] != q.shape[:-3] or k.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"{name}: k must be {layout.replace('q', 'k').replace('H', 'Hkv')} with batch and "
            f"width of q {tuple(q.shape)}, got shape {tuple(k.shape)}"
        )
    if v.shape != k.shape:
        raise ValueError(
            f"{name}: v must have the shape of k {tuple(k.shape)}, got shape {tuple(v.shape)}"
        )
    if k.shape[-2] == 0 or q.shape[-2] % k.shape[-2] != 0:
        raise ValueError(
            f"{name}: the heads of k must divide those of q, got {k.shape[-2]} and {q.shape[-2]}"
        )
    if q.shape[-1] == 0:
        raise ValueError(f"{name}: the width of a head must be at least 1, got 0")
    if key_bias is not None and key_bias.shape != k.shape[:-2]:
        raise ValueError(
            f"{name}: key_bias must be {keys} like k {tuple(k.shape)}, "
            f"got shape {tuple(key_bias.shape)}"
        )


def _check_boundaries(cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> None:
    name = "cross_attention"
    for label, bounds in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if bounds.dtype not in (torch.int32, torch.int64):
            raise TypeError(
                f"{name}: {label} must be int32 or int64, got {dtype_name(bounds.dtype)}"
            )
        if bounds.dim() != 1 or bounds.shape[0] < 1:
            raise ValueError(f"{name}: {label} must be [S + 1], got shape {tuple(bounds.shape)}")
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise ValueError(
            f"{name}: cu_seqlens_q and cu_seqlens_k must have the same length, "
            f"got {cu_seqlens_q.shape[0]} and {cu_seqlens_k.shape[0]}"
        )


def _refuse_wrong_boundaries(label: str, bounds: Tensor | None, num_rows: int) -> None:
    if bounds is None or bounds.device.type != "cpu":
        return  # reading values back would synchronise
    values = bounds.tolist()
    rule = f"cross_attention: {label} must start at 0, never fall and end at {num_rows}, the rows"
    if values[0] != 0 or values[-1] != num_rows:
        raise ValueError(f"{rule} of {label[-1]}; got {values[0]} to {values[-1]}")
    for s in range(1, len(values)):
        if values[s] < values[s - 1]:
            raise ValueError(f"{rule} of {label[-1]}; got {values[s]} after {values[s - 1]}")


def _choose(operator: str, q: Tensor, backend: str) -> str:
    width = q.shape[-1]
    limit = None
    if width % 8 != 0 or width > _LARGEST_WIDTH:
        limit = (
            f"kernels take a head width that is a multiple of 8 up to {_LARGEST_WIDTH}, got {width}"
        )
    return choose_backend(operator, q.device, force=backend, limit=limit)


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    scale: float,
    causal: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    chosen = _choose("cross_attention", q, backend)
    _refuse_wrong_boundaries("cu_seqlens_q", cu_seqlens_q, q.shape[0])
    _refuse_wrong_boundaries("cu_seqlens_k", cu_seqlens_k, k.shape[0])
    inputs = (q, k, v, key_bias, cu_seqlens_q, cu_seqlens_k)
    if chosen == "reference":
        return cross_attention_reference(*inputs, scale, causal)
    results = _forward_fake(*inputs, scale, causal, backend)
    with Crossing() as crossing:
        params = crossing.params(*inputs, *results, scale, causal)
        run(chosen, "attention.cross_attention", q.device, params)
    return results


def _backward(
    grad_out: Tensor,
    grad_logsumexp: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    causal: bool,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chosen = _choose("cross_attention_backward", q, backend)
    inputs = (q, k, v, key_bias, cu_seqlens_q, cu_seqlens_k)
    if chosen == "reference":
        return cross_attention_backward_reference(
            grad_out, grad_logsumexp, *inputs, out, logsumexp, scale, causal, wanted
        )
    gradients = _backward_fake(
        grad_out, grad_logsumexp, *inputs, out, logsumexp, scale, causal, wanted, backend
    )
    with Crossing() as crossing:
        params = crossing.params(*inputs, out, logsumexp, scale, causal)
        addresses = crossing.gradients(grad_out, grad_logsumexp, *gradients)
        size = run(chosen, "attention.cross_attention_workspace", q.device, params)
        workspace = q.new_empty(size, dtype=torch.uint8)
        kernel = "attention.cross_attention_backward"
        run(chosen, kernel, q.device, params, addresses, workspace.data_ptr())
    return gradients


def _forward_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    scale: float,
    causal: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    logsumexp = q.new_empty(q.shape[:-1], dtype=accumulation_dtype(q.dtype))
    return q.new_empty(q.shape), logsumexp


def _backward_fake(
    grad_out: Tensor,
    grad_logsumexp: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    causal: bool,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v, grad_bias = (
        q.new_empty(like.shape if wants and like is not None else (0,), dtype=dtype)
        for like, wants, dtype in zip(
            (q, k, v, key_bias),
            wanted,
            (q.dtype, q.dtype, q.dtype, accumulation_dtype(q.dtype)),
            strict=True,
        )
    )
    return grad_q, grad_k, grad_v, grad_bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # mostly there is none for logsumexp
    *tensors, ctx.scale, ctx.causal, ctx.backend = inputs
    ctx.save_for_backward(*tensors, *output)


def _gradients(
    ctx: Any, grad_out: Tensor | None, grad_logsumexp: Tensor | None
) -> tuple[Tensor | None, ...]:
    *inputs, out, logsumexp = ctx.saved_tensors
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    wanted = list(ctx.needs_input_grad[:4])
    gradients = torch.ops.fastregion.cross_attention_backward(
        grad_out, grad_logsumexp, *inputs, out, logsumexp, ctx.scale, ctx.causal, wanted,
        ctx.backend,
    )  # fmt: skip
    grads = (gradient if wants else None for gradient, wants in zip(gradients, wanted, strict=True))
    return *grads, None, None, None, None, None


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? key_bias, Tensor? cu_seqlens_q, "
_INPUTS += "Tensor? cu_seqlens_k"
register(
    f"cross_attention({_INPUTS}, float scale, bool causal, str backend) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)
register(
    f"cross_attention_backward(Tensor grad_out, Tensor? grad_logsumexp, {_INPUTS}, Tensor out, "
    "Tensor logsumexp, float scale, bool causal, bool[] wanted, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
register_gradient("cross_attention", _gradients, _save)
refuse_second_gradient("cross_attention_backward")
