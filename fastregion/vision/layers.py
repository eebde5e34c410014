"""Layers that the vision towers share; parameter names are those that most checkpoints have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.ops import Linear, cross_attention, gated_residual_norm

__all__ = ["MLP", "FusedSelfAttention", "scaled_residuals"]


class MLP(nn.Module):
    """Linear, GELU, linear.

    Args:
        hidden_size: D, width outside.
        intermediate_size: width inside.
        approximate: of the GELU, as in torch: ``"none"`` or ``"tanh"``.
    """

    def __init__(
        self, *, hidden_size: int, intermediate_size: int, approximate: str = "none"
    ) -> None:
        super().__init__()
        self.approximate = approximate
        self.fc1 = Linear(hidden_size, intermediate_size)
        self.fc2 = Linear(intermediate_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to the same."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))
        return y


class FusedSelfAttention(nn.Module):
    """Multi-head self-attention with queries, keys and values from one projection.

    Args:
        hidden_size: D, a multiple of ``num_heads``.
        num_heads: heads.
        qkv_bias: whether the projection has a bias.
        qk_norm_eps: not None: queries and keys are normalised (RMSNorm over all heads together).
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.proj = Linear(hidden_size, hidden_size)
        self.qk_norm = qk_norm_eps is not None
        if self.qk_norm:
            self.q_norm = nn.RMSNorm(hidden_size, eps=qk_norm_eps)
            self.k_norm = nn.RMSNorm(hidden_size, eps=qk_norm_eps)

    def forward(self, x: Tensor, turn: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``[T, N, D]`` to the same; ``turn`` is done to queries and keys ``[T, N, heads, d]``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1)).unbind(2)  # each [T, N, D]
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in (q, k, v))
        if turn is not None:
            q, k = turn(q), turn(k)
        out, _ = cross_attention(q, k, v)  # scores over the root of a head's width
        y: Tensor = self.proj(out.flatten(2))
        return y


def scaled_residuals(
    x: Tensor, branch: Tensor, scale_1: Tensor, norm: nn.Module, mlp: nn.Module, scale_2: Tensor
) -> Tensor:
    """The rest of a pre-norm block with LayerScale, behind its attention.

    y = x + scale_1 * branch,   out = y + scale_2 * mlp(norm(y))

    Args:
        x: ``[T, N, D]``, what the block begins with.
        branch: ``[T, N, D]``, what its attention gives.
        scale_1: ``[D]``.
        norm: a layer norm, or another norm.
        mlp: ``[..., D]`` to the same.
        scale_2: ``[D]``.
    """
    branch = branch.to(x.dtype)  # another one under autocast
    if isinstance(norm, nn.LayerNorm):
        y, normed = gated_residual_norm(x, branch, scale_1, norm.weight, norm.bias, norm.eps)
    else:
        y = torch.addcmul(x, scale_1, branch)
        normed = norm(y)
    return torch.addcmul(y, scale_2, mlp(normed).to(y.dtype))
