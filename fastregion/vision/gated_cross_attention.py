"""The gated cross-attention adapter of DAM's localized backbone (paper, Eq. 6-7).

    a = h + attn_factor * CrossAttn(LN1(h), z)
    out = a + mlp_factor * MLP(LN2(a))

h are the tokens of the focal crop as they leave an encoder layer, z those of the full image; keys
and values are projected from z as it is, without a norm. The gates begin at 0, so that a new block
changes nothing. The released weights deviate from the paper in two places, and the defaults follow
them: the gates multiply as they are, without tanh, and the MLP reads the sum after the attention,
where the paper's Eq. 7 reads h. Both formulas of the paper can be chosen, for new training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastregion.ops import Linear, cross_attention, gated_residual_norm
from fastregion.ops.gated_residual_norm import GATE_ACTIVATIONS
from fastregion.vision.layers import MLP

MLP_INPUTS = ("sum", "entry")


class CrossAttention(nn.Module):
    """Attention of some tokens to the keys and values of others, several heads wide."""

    def __init__(self, *, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Linear(hidden_size, hidden_size)
        self.k_proj = Linear(hidden_size, hidden_size)
        self.v_proj = Linear(hidden_size, hidden_size)
        self.out_proj = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, z: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """``x [B, N, D]`` attends to ``z [B, M, D]``, with ``key_bias [B, M]`` on the scores."""
        q, k, v = (
            projected.unflatten(-1, (self.num_heads, -1))
            for projected in (self.q_proj(x), self.k_proj(z), self.v_proj(z))
        )
        attended, _ = cross_attention(q, k, v, key_bias)  # scores over the root of a head's width
        out: Tensor = self.out_proj(attended.flatten(2))
        return out


class GatedCrossAttentionBlock(nn.Module):
    """One adapter; parameters are named as in the released checkpoints, so that they load as is.

    Args:
        hidden_size: D, width of h and z.
        intermediate_size: Width inside of the MLP.
        num_heads: Heads of the attention; D is a multiple of it.
        layer_norm_eps: Of both norms.
        gate_activation: ``"raw"``, the gates as they are, or ``"tanh"``, the paper's formula, for
            new training.
        mlp_input: ``"sum"``, the MLP reads a, or ``"entry"``, h, as in the paper's Eq. 7.
        gated: False for gates that are 1 and no parameters (``zero_init_output`` false).
    """

    attn_factor: Tensor
    mlp_factor: Tensor

    def __init__(
        self,
        *,
        hidden_size: int,
        intermediate_size: int,
        num_heads: int,
        layer_norm_eps: float = 1e-6,
        gate_activation: str = "raw",
        mlp_input: str = "sum",
        gated: bool = True,
    ) -> None:
        super().__init__()
        if num_heads < 1 or hidden_size % num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads, got {hidden_size} and {num_heads}"
            )
        if gate_activation not in GATE_ACTIVATIONS:
            raise ValueError(f"gate_activation must be 'raw' or 'tanh', got {gate_activation!r}")
        if mlp_input not in MLP_INPUTS:
            raise ValueError(f"mlp_input must be 'sum' or 'entry', got {mlp_input!r}")
        self.gate_activation = gate_activation if gated else "raw"
        self.mlp_input = mlp_input
        self.layer_norm1 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.cross_attn = CrossAttention(hidden_size=hidden_size, num_heads=num_heads)
        self.layer_norm2 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.mlp = MLP(
            hidden_size=hidden_size, intermediate_size=intermediate_size, approximate="tanh"
        )
        for name in ("attn_factor", "mlp_factor"):
            if gated:
                self.register_parameter(name, nn.Parameter(torch.zeros(1)))
            else:  # has its value also where parameters are made on the meta device
                self.register_buffer(name, torch.ones(1, device="cpu"), persistent=False)

    def forward(self, h: Tensor, z: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """Let the crop look at the whole image.

        Args:
            h: ``[B, N, D]`` tokens of the focal crop.
            z: ``[B, M, D]`` tokens of the full image.
            key_bias: ``[B, M]``, added to the scores of a key for all queries and heads: -inf hides
                it (``masked_cross_attn``). Where all are hidden the attention is 0, and so what
                its projection gives is its bias.

        Returns:
            ``[B, N, D]``, the input of the next encoder layer.

        Raises:
            ValueError: Shapes that do not fit.
        """
        a, branch = self._attend(h, z, key_bias)
        gate = self._gate(self.mlp_factor)
        return torch.addcmul(a, gate.to(a.dtype), branch)  # Eq. 7

    def forward_and_norm(
        self, h: Tensor, z: Tensor, norm: nn.LayerNorm, key_bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The block, and the norm that the next layer begins with: ``out`` and ``norm(out)``."""
        a, branch = self._attend(h, z, key_bias)
        return self._add_and_norm(a, branch, self.mlp_factor, norm)

    def _attend(self, h: Tensor, z: Tensor, key_bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sum after the attention, and what the MLP makes of it, both ``[B, N, D]``."""
        width = self.layer_norm1.normalized_shape[0]
        if h.dim() != 3 or h.shape[2] != width:
            raise ValueError(f"h must be [B, N, {width}], got shape {tuple(h.shape)}")
        if z.dim() != 3 or z.shape[0] != h.shape[0] or z.shape[2] != width:
            raise ValueError(f"z must be [{h.shape[0]}, M, {width}], got shape {tuple(z.shape)}")
        attended = self.cross_attn(self.layer_norm1(h), z, key_bias)
        if self.mlp_input == "entry":
            a = torch.addcmul(h, self._gate(self.attn_factor).to(h.dtype), attended.to(h.dtype))
            return a, self.mlp(self.layer_norm2(h)).to(a.dtype)
        a, normed = self._add_and_norm(h, attended, self.attn_factor, self.layer_norm2)  # Eq. 6
        return a, self.mlp(normed).to(a.dtype)

    def _add_and_norm(
        self, x: Tensor, branch: Tensor, gate: Tensor, norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """``x + g(gate) * branch`` and its norm."""
        branch = branch.to(x.dtype)  # autocast makes branches narrower than the stream
        return gated_residual_norm(
            x, branch, gate, norm.weight, norm.bias, norm.eps, gate_activation=self.gate_activation
        )

    def _gate(self, factor: Tensor) -> Tensor:
        return factor.tanh() if self.gate_activation == "tanh" else factor
