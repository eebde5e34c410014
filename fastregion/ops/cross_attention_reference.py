"""cross_attention and its gradient in plain torch: the definition, on any device.

The contract stands in ``cross_attention.py``; every backend is held to these functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastregion.ops.checks import accumulation_dtype


def cross_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """The definition, in plain torch; every backend is held to it (float64 stays float64)."""
    heads = k.shape[-2]
    visible = _visible(q, k, key_bias, cu_seqlens_q, cu_seqlens_k, causal)
    queries, keys, values = (_by_head(x, heads) for x in (q, k, v))
    scores = _scores(queries, keys, key_bias, visible, scale)
    logsumexp = scores.logsumexp(-1, keepdim=True)  # [B, Hkv, group, Nq, 1]
    probabilities = _probabilities(scores, logsumexp, visible)
    out = _product(probabilities, values, visible)
    return _by_token(out, q.shape).to(q.dtype), _by_token(logsumexp, q.shape[:-1])


def cross_attention_backward_reference(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and key_bias, empty where not wanted; the equations: in the header."""
    heads = k.shape[-2]
    visible = _visible(q, k, key_bias, cu_seqlens_q, cu_seqlens_k, causal)
    transposed = None if visible is None else visible.transpose(-1, -2)
    queries, keys, values, grads, outs = (_by_head(x, heads) for x in (q, k, v, grad_out, out))
    scores = _scores(queries, keys, key_bias, visible, scale)
    probabilities = _probabilities(scores, _by_head(logsumexp.unsqueeze(-1), heads), visible)
    offset = (grads * outs).sum(-1, keepdim=True)
    if grad_logsumexp is not None:
        offset = offset - _by_head(grad_logsumexp.unsqueeze(-1), heads)
    grad_scores = probabilities * (grads @ values.transpose(-1, -2) - offset)
    if visible is not None:
        grad_scores = grad_scores.masked_fill(~visible, 0)
    # A query that sees nothing has no gradient, whatever lies in it.
    grad_q = scale * _product(grad_scores, keys, visible)
    grad_k = scale * _product(grad_scores.transpose(-1, -2), queries, transposed).sum(2, True)
    grad_v = _product(probabilities.transpose(-1, -2), grads, transposed).sum(2, True)
    grad_bias = q.new_empty(0, dtype=accumulation_dtype(q.dtype))
    if key_bias is not None:
        grad_bias = grad_scores.sum((1, 2, 3)).view(key_bias.shape)
    gradients = (
        _by_token(grad_q, q.shape).to(q.dtype),
        _by_token(grad_k, k.shape).to(k.dtype),
        _by_token(grad_v, v.shape).to(v.dtype),
        grad_bias,
    )
    grad_q, grad_k, grad_v, grad_bias = (
        gradient if wants else gradient.new_empty(0)
        for gradient, wants in zip(gradients, wanted, strict=True)
    )
    return grad_q, grad_k, grad_v, grad_bias


def _by_head(x: Tensor, num_kv_heads: int) -> Tensor:
    """``[B, N, H, D]`` or ``[T, H, D]`` as ``[B, Hkv, group, N, D]``, in the dtype of sums."""
    x = x.to(accumulation_dtype(x.dtype))
    x = x if x.dim() == 4 else x.unsqueeze(0)
    x = x.view(*x.shape[:2], num_kv_heads, x.shape[2] // num_kv_heads, x.shape[3])
    return x.permute(0, 2, 3, 1, 4)


def _by_token(x: Tensor, shape: torch.Size) -> Tensor:
    """Back from ``[B, Hkv, group, N, D]`` to the shape of a tensor of tokens."""
    return x.permute(0, 3, 1, 2, 4).reshape(shape).contiguous()


def _by_key(key_bias: Tensor) -> Tensor:
    """``[B, Nk]`` or ``[Tk]`` as ``[B, 1, 1, 1, Nk]``."""
    return key_bias.reshape(key_bias.shape[:-1].numel(), 1, 1, 1, key_bias.shape[-1])


def _visible(
    q: Tensor,
    k: Tensor,
    key_bias: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    causal: bool,
) -> Tensor | None:
    """Which keys a query sees, ``[B, 1, 1, Nq, Nk]`` (some of them 1); None where it sees all."""
    num_queries, num_keys = q.shape[-3], k.shape[-3]
    query = torch.arange(num_queries, device=q.device)[:, None]
    key = torch.arange(num_keys, device=q.device)
    visible = None
    if cu_seqlens_q is not None and cu_seqlens_k is not None:
        # Boundaries are not read on the host: every row looks up its sequence.
        starts_q, starts_k = cu_seqlens_q.long(), cu_seqlens_k.long()
        sequence = torch.searchsorted(starts_q[1:], query, right=True)  # [Tq, 1]
        visible = sequence == torch.searchsorted(starts_k[1:], key, right=True)
        if causal:
            visible &= key - starts_k[sequence + 1] <= query - starts_q[sequence + 1]
    elif causal:
        visible = key - num_keys <= query - num_queries
    if key_bias is not None:
        shown = _by_key(key_bias) != -torch.inf
        visible = shown if visible is None else visible & shown
    return visible


def _scores(
    queries: Tensor, keys: Tensor, key_bias: Tensor | None, visible: Tensor | None, scale: float
) -> Tensor:
    scores = scale * (queries @ keys.transpose(-1, -2))
    if key_bias is not None:
        scores = scores + _by_key(key_bias)
    return scores if visible is None else scores.masked_fill(~visible, -torch.inf)


def _probabilities(scores: Tensor, logsumexp: Tensor, visible: Tensor | None) -> Tensor:
    probabilities = torch.exp(scores - logsumexp.masked_fill(logsumexp == -torch.inf, 0))
    return probabilities if visible is None else probabilities.masked_fill(~visible, 0)


def _product(weights: Tensor, rows: Tensor, visible: Tensor | None) -> Tensor:
    """``weights @ rows``, where a row that is not visible adds nothing, not even 0 * NaN."""
    product = weights @ rows
    if visible is None:
        return product
    finite = rows.isfinite()
    clean = weights @ rows.where(finite, 0)
    reached = visible.expand(weights.shape).to(rows.dtype) @ (~finite).to(rows.dtype)
    return torch.where(reached > 0, product, clean)
