"""Attention and feed-forward under the parameter names of ``torch.nn.MultiheadAttention``."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.ops import Linear
from fastregion.ops.linear import linear

__all__ = ["MLP", "Attention"]


class Attention(nn.Module):
    """Attention whose three input projections are one parameter, in the order q, k, v."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * hidden_size))
        self.out_proj = Linear(hidden_size, hidden_size)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        blocked: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attend.

        Args:
            q: ``[B, N, C]``.
            k: ``[B, M, C]``.
            v: ``[B, M, C]``.
            blocked: bool, broadcast to ``[B, N, M]``: True hides a key from a query. Every query
                must see a key.
            causal: query i sees the keys up to i only; not together with ``blocked``.

        Returns:
            ``[B, N, C]``.
        """
        num_heads = self.num_heads

        def project(source: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            rows = linear(source, weight, bias)
            return rows.view(*rows.shape[:2], num_heads, -1).transpose(1, 2)

        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = map(project, (q, k, v), weights, biases)
        visible = None if blocked is None else ~blocked.unsqueeze(-3)  # the same for all heads
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=causal)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Linear(width, next_width) for width, next_width in pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Works on the last dimension."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out
