"""DAM's adapter and its parts.

The block: 729 tokens of the crop attend to 729 of the image, width 1152, 16 heads of 72, MLP 4304.
Floor, per sample: 24.65 GFLOP forward, of which 22.2 are matrix products with weights (projections
7.74, MLP 14.46) and 2.45 attention; three times that with the gradient. Weights are 61 MB in
float32, activations 3.4 MB each. On the CPU the products of torch's libraries bound it: what is
ours is the attention, the norms and gates, and the choice between the two libraries.

Its residual and norm: 2 rows read, 2 written, 4 bytes a channel each in float32; the gradient reads
4 and writes 2.

Peer "published": the published block in eager torch, attention with a float32 softmax over the
whole score matrix. Peer "SDPA": the same with torch's fused attention. Peer "steps" of the
residual: sum, product, layer norm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastregion.benchmarking.measure import Case, Ways
from fastregion.ops import gated_residual_norm
from fastregion.vision.gated_cross_attention import GatedCrossAttentionBlock

_TOKENS, _WIDTH, _HEADS, _INNER = 729, 1152, 16, 4304
_EPS = 1e-6
_Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def _eager_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    return torch.matmul(scores.softmax(-1, dtype=torch.float32).to(q.dtype), v)


class _PublishedBlock(nn.Module):
    """Elementary steps on the weights of ``block``."""

    def __init__(self, block: GatedCrossAttentionBlock, attend: _Attend) -> None:
        super().__init__()
        self.block = block
        self.attend = attend

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        block, attention = self.block, self.block.cross_attn
        x = block.layer_norm1(h)
        q, k, v = (
            functional.linear(tokens, layer.weight, layer.bias)
            .view(*tokens.shape[:2], _HEADS, -1)
            .transpose(1, 2)
            for tokens, layer in (
                (x, attention.q_proj),
                (z, attention.k_proj),
                (z, attention.v_proj),
            )
        )
        attended = self.attend(q, k, v).transpose(1, 2).reshape(h.shape)
        out = attention.out_proj
        h = h + block.attn_factor * functional.linear(attended, out.weight, out.bias)
        fc1, fc2 = block.mlp.fc1, block.mlp.fc2
        inner = functional.linear(block.layer_norm2(h), fc1.weight, fc1.bias)
        inner = functional.gelu(inner, approximate="tanh")
        return h + block.mlp_factor * functional.linear(inner, fc2.weight, fc2.bias)


def _block(dtype: torch.dtype, device: torch.device) -> GatedCrossAttentionBlock:
    block = GatedCrossAttentionBlock(hidden_size=_WIDTH, intermediate_size=_INNER, num_heads=_HEADS)
    nn.init.constant_(block.attn_factor, 0.5)
    nn.init.constant_(block.mlp_factor, 0.5)
    return block.to(device, dtype)


def _make_block(batch: int, dtype: torch.dtype, gradient: bool, device: torch.device) -> Ways:
    torch.manual_seed(0)
    block = _block(dtype, device)
    h, z = torch.randn(2, batch, _TOKENS, _WIDTH, device=device).to(dtype).unbind(0)
    h, z = h.requires_grad_(gradient), z.requires_grad_(gradient)
    grad = torch.randn_like(h)

    def call(module: nn.Module) -> Tensor | list[Tensor]:
        if not gradient:
            with torch.inference_mode():
                out: Tensor = module(h, z)
                return out
        return list(torch.autograd.grad(module(h, z), (h, z, *parameters), grad))

    # That of the keys' bias is zero: it moves all scores of a query alike.
    parameters = [p for name, p in block.named_parameters() if not name.endswith("k_proj.bias")]
    published = _PublishedBlock(block, _eager_attention)
    fused = _PublishedBlock(block, functional.scaled_dot_product_attention)
    weights = sum(p.numel() for p in block.parameters())
    return Ways(
        ours=lambda: call(block),
        peers={"published": lambda: call(published), "SDPA": lambda: call(fused)},
        bytes=(weights + 3 * h.numel()) * h.element_size() * (3 if gradient else 1),
        tolerance=1e-4 if dtype == torch.float32 else 2e-2,
    )


def _by_steps(
    x: Tensor, branch: Tensor, gate: Tensor, weight: Tensor, bias: Tensor
) -> list[Tensor]:
    y = x + gate * branch
    return [y, functional.layer_norm(y, y.shape[-1:], weight, bias, _EPS)]


def _make_residual(batch: int, dtype: torch.dtype, gradient: bool, device: torch.device) -> Ways:
    torch.manual_seed(0)
    shapes = (*2 * ((batch, _TOKENS, _WIDTH),), (1,), (_WIDTH,), (_WIDTH,))
    x, branch, gate, weight, bias = (
        torch.randn(shape).to(device, dtype).requires_grad_(gradient) for shape in shapes
    )
    tensors = (x, branch, gate, weight, bias)
    grads = [torch.randn_like(x) for _ in range(2)]

    def ours() -> list[Tensor]:
        return list(gated_residual_norm(*tensors, _EPS))

    def call(function: Callable[[], list[Tensor]]) -> list[Tensor]:
        if not gradient:
            with torch.inference_mode():
                return function()
        # Rows only: the sums over rows differ by more than what tells a fault from a rounding.
        return list(torch.autograd.grad(function(), tensors, grads)[:2])

    return Ways(
        ours=lambda: call(ours),
        peers={"steps": lambda: call(lambda: _by_steps(*tensors))},
        bytes=x.numel() * x.element_size() * (10 if gradient else 4),
        tolerance=1e-5 if dtype == torch.float32 else 2e-2,
    )


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


CASES = tuple(
    Case(
        operator="gated_cross_attention_block",
        shape=f"batch {batch}, {_TOKENS} x {_TOKENS} tokens of {_WIDTH}"
        + (", with gradient" if gradient else ""),
        dtype=_named(dtype),
        make=partial(_make_block, batch, dtype, gradient),
    )
    for batch, dtype, gradient in (
        (1, torch.float32, False),
        (8, torch.float32, False),
        (1, torch.float32, True),
        (1, torch.bfloat16, False),
    )
) + tuple(
    Case(
        operator="gated_residual_norm",
        shape=f"{batch} x {_TOKENS} x {_WIDTH}" + (", with gradient" if gradient else ""),
        dtype=_named(dtype),
        make=partial(_make_residual, batch, dtype, gradient),
    )
    for batch in (1, 8)
    for dtype in (torch.float32, torch.bfloat16)
    for gradient in (False, True)
)
