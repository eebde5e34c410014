"""Attention over two sets of keys, joined: exact, from the results and their normalisers.

    logsumexp = log(exp(lse_a) + exp(lse_b))
    out = exp(lse_a - logsumexp) * out_a + exp(lse_b - logsumexp) * out_b

``out_a``, ``lse_a`` are what ``cross_attention`` gives for one set of keys, ``out_b``, ``lse_b``
for another; the result is what it gives for both together. A set without a share (logsumexp -inf)
adds nothing, whatever lies in its ``out``. Plain torch on any device, computed in float32 (float64
for float64) and rounded once; differentiable in all four.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastregion.ops.checks import (
    accumulation_dtype,
    check_floating,
    check_same_device,
    check_same_dtype,
)


def merge_attention(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Join the attention of the same queries to two sets of keys.

    Args:
        out_a: ``[..., H, D]``, attention to the first keys.
        lse_a: ``[..., H]``, its logsumexp; -inf where no key was seen.
        out_b: Like ``out_a``, for the second keys.
        lse_b: Like ``lse_a``.

    Returns:
        ``out`` in the dtype of ``out_a`` and ``logsumexp`` over both sets; 0 and -inf where
        neither shows a key.

    Raises:
        TypeError: Dtypes that are not floating, or not the same for both sets.
        ValueError: Shapes that do not fit, or tensors on different devices.
    """
    name = "merge_attention"
    if out_b.shape != out_a.shape:
        raise ValueError(
            f"{name}: out_a and out_b must have the same shape, "
            f"got {tuple(out_a.shape)} and {tuple(out_b.shape)}"
        )
    for label, lse in (("lse_a", lse_a), ("lse_b", lse_b)):
        if out_a.dim() == 0 or lse.shape != out_a.shape[:-1]:
            raise ValueError(
                f"{name}: {label} must have the shape of out_a {tuple(out_a.shape)} without its "
                f"last dimension, got {tuple(lse.shape)}"
            )
    check_floating(name, out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b)
    check_same_dtype(name, out_a=out_a, out_b=out_b)
    check_same_dtype(name, lse_a=lse_a, lse_b=lse_b)
    check_same_device(name, out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b)
    dtype = accumulation_dtype(out_a.dtype)
    # A shift common to both: where neither saw a key it is 0, so that no inf - inf arises, neither
    # here nor in the gradient. It cancels out, so its own gradient is left away.
    shift = torch.maximum(lse_a, lse_b).detach()
    shift = shift.masked_fill(shift == -torch.inf, 0)
    weight_a, weight_b = torch.exp(lse_a - shift), torch.exp(lse_b - shift)
    total = weight_a + weight_b
    nothing = total == 0
    total = total.masked_fill(nothing, 1)
    logsumexp = (shift + total.log()).masked_fill(nothing, -torch.inf)
    share_a, share_b = (w.to(dtype).unsqueeze(-1) for w in (weight_a / total, weight_b / total))
    out = _part(share_a, out_a) + _part(share_b, out_b)
    return out.to(out_a.dtype), logsumexp


def _part(share: Tensor, out: Tensor) -> Tensor:
    """``share * out``, but 0 where the share is, whatever lies in ``out``."""
    return share * out.to(share.dtype).masked_fill(share == 0, 0)
