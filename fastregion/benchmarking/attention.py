"""Streaming attention.

Shapes are those of the systems: DAM's gated cross-attention (729 queries and keys, 16 heads of 72),
the self-attention of GAR's vision tower (1025 tokens a tile, 16 heads of 64) and the prefill of its
decoder (1,616 tokens, 32 heads on 8 key-value heads of 64, causal).

Floor: arithmetic. The two products take 4 * queries * keys * width operations a head, half of that
when causal, and the gradient 10: 2.45 GFLOP for DAM forward and 6.1 backward, 4.3 for a tile, 10.7
for the prefill. A core with two AVX-512 units does 64 a cycle in float32: 16, 41, 29 and 71 ms at
2.35 GHz. Memory is nothing beside it: q, k, v and the output once, 13 MB for DAM in float32.

Peers: "SDPA" is torch's fused attention; "eager" multiplies, takes the softmax and multiplies, with
the scores in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from fastregion.benchmarking.measure import Call, Case, Ways
from fastregion.ops import cross_attention


@dataclass(frozen=True, kw_only=True)
class _Shape:
    tokens: int
    heads: int
    kv_heads: int
    width: int
    batch: int = 1
    causal: bool = False
    eager: bool = False
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        causal = ", causal" if self.causal else ""
        return f"{self.batch} x {self.tokens} tokens, {heads} heads of {self.width}{causal}"


def _data(shape: _Shape, device: torch.device) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(shape.batch, shape.tokens, heads, shape.width).to(device, shape.dtype)
        for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
    ]


def _by_sdpa(shape: _Shape, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    shared = shape.heads != shape.kv_heads
    out = functional.scaled_dot_product_attention(
        q, k, v, is_causal=shape.causal, enable_gqa=shared
    )
    return out.transpose(1, 2)


def _by_eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    out: Tensor = scores.softmax(-1) @ v
    return out.transpose(1, 2)


def _bytes(tensors: list[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in (*tensors, tensors[0]))


def _make(shape: _Shape, device: torch.device) -> Ways:
    tensors = _data(shape, device)
    peers: dict[str, Call] = {"SDPA": lambda: _by_sdpa(shape, *tensors)}
    if shape.eager:
        peers["eager"] = lambda: _by_eager(*tensors)
    return Ways(
        ours=lambda: cross_attention(*tensors, causal=shape.causal)[0],
        peers=peers,
        bytes=_bytes(tensors),
        tolerance=1e-5 if shape.dtype == torch.float32 else 2e-2,
    )


def _make_gradient(shape: _Shape, device: torch.device) -> Ways:
    tensors = [x.requires_grad_() for x in _data(shape, device)]
    ours = cross_attention(*tensors, causal=shape.causal)[0]
    sdpa = _by_sdpa(shape, *tensors)
    grad = torch.randn_like(ours)

    def gradients(out: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(out, tensors, grad, retain_graph=True))

    return Ways(
        ours=lambda: gradients(ours),
        peers={"SDPA": lambda: gradients(sdpa)},
        bytes=2 * _bytes(tensors),
        tolerance=1e-5,
    )


def _cases(
    operator: str, make: Callable[[_Shape, torch.device], Ways], *shapes: _Shape
) -> tuple[Case, ...]:
    return tuple(
        Case(
            operator=operator,
            shape=str(shape),
            dtype=str(shape.dtype).removeprefix("torch."),
            make=partial(make, shape),
        )
        for shape in shapes
    )


_DAM = _Shape(tokens=729, heads=16, kv_heads=16, width=72)

CASES = (
    *_cases(
        "cross_attention",
        _make,
        *(
            replace(_DAM, batch=batch, dtype=dtype, eager=True)
            for dtype in (torch.float32, torch.bfloat16)
            for batch in (1, 8)
        ),
        _Shape(tokens=1025, heads=16, kv_heads=16, width=64, dtype=torch.bfloat16),
        _Shape(tokens=1616, heads=32, kv_heads=8, width=64, dtype=torch.bfloat16, causal=True),
    ),
    *_cases("cross_attention gradient", _make_gradient, _DAM),
)
