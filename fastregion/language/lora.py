"""LoRA: low-rank updates of a decoder's linear layers, to be trained while the layers stay.

    y = W x + b + (alpha / r) B A dropout(x)              A [r, in], B [out, r]; B begins at 0

Parameter names are peft's, ``lora_A.default.weight`` and ``lora_B.default.weight`` below each
layer. Decoding wants plain layers: :func:`merge_lora` folds the updates into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LoraLinear", "add_lora", "fold", "lora_layers", "merge_lora"]

_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
_SHARING = _ATTENTION[:3]


class LoraLinear(nn.Linear):
    """A linear layer with a low-rank update; weight and bias are those of the layer it replaces.

    Args:
        layer: that layer.
        lora_A: ``in`` to r features; may be shared with other layers.
        alpha: the update is scaled by ``alpha / r``.
        dropout: share of the update's inputs that are dropped in training.
    """

    def __init__(
        self, layer: nn.Linear, lora_A: nn.Linear, *, alpha: float, dropout: float
    ) -> None:
        has_bias = layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, has_bias, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        rank = lora_A.out_features
        self.scale, self.dropout = alpha / rank, dropout
        update = nn.Linear(
            rank, layer.out_features, bias=False, dtype=layer.weight.dtype,
            device=layer.weight.device,
        )  # fmt: skip
        nn.init.zeros_(update.weight)
        self.lora_A = nn.ModuleDict({"default": lora_A})
        self.lora_B = nn.ModuleDict({"default": update})

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        low = self.lora_A["default"](F.dropout(x, self.dropout, self.training))
        out: Tensor = super().forward(x) + self.scale * self.lora_B["default"](low)
        return out

    def merged(self) -> nn.Linear:
        """A plain layer that computes the same, without dropout."""
        a, b = (cast(nn.Linear, p["default"]).weight for p in (self.lora_A, self.lora_B))
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        folded = fold(self.weight.detach(), a.detach(), b.detach(), self.scale)
        layer.weight = nn.Parameter(folded, requires_grad=self.weight.requires_grad)
        layer.bias = self.bias
        return layer


def fold(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``W + scale * B A``, computed in float32 (float64 for float64) and rounded once."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return torch.addmm(weight.to(wide), b.to(wide), a.to(wide), alpha=scale).to(weight.dtype)


def add_lora(
    decoder: Any,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    share_qkv: bool = False,
    seed: int = 0,
) -> list[nn.Parameter]:
    """Give all linear layers of a decoder's blocks a low-rank update.

    Nothing changes yet, as B is 0. A is drawn as peft draws it: uniform in +-1 / sqrt(in).

    Args:
        decoder: a transformers ``LlamaForCausalLM`` or ``Qwen2ForCausalLM``; modified.
        rank: r, at least 1.
        alpha: the updates are scaled by ``alpha / rank``.
        dropout: in training, in [0, 1).
        share_qkv: queries, keys and values share A, as where they are one layer (InternLM2).
        seed: of A.

    Returns:
        The parameters of the updates.

    Raises:
        ValueError: a rank below 1, dropout outside [0, 1), or a decoder that has updates already.
    """
    if rank < 1:
        raise ValueError(f"rank: must be at least 1, got {rank}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: must be in [0, 1), got {dropout}")
    if any(lora_layers(decoder)):
        raise ValueError("decoder: has LoRA layers already; merge them first")
    generator = torch.Generator().manual_seed(seed)
    for block in decoder.model.layers:
        shared: nn.Linear | None = None
        for part, names in ((block.self_attn, _ATTENTION), (block.mlp, _MLP)):
            for name in names:
                layer = getattr(part, name)
                a = shared if name in _SHARING else None
                if a is None:
                    a = _new_a(layer, rank, generator)
                if share_qkv and name in _SHARING:
                    shared = a
                made = LoraLinear(layer, a, alpha=alpha, dropout=dropout)
                setattr(part, name, made.train(layer.training))
    return [p for name, p in decoder.named_parameters() if ".lora_" in name]


def _new_a(layer: nn.Linear, rank: int, generator: torch.Generator) -> nn.Linear:
    made = nn.Linear(layer.in_features, rank, bias=False, device="meta")
    value = torch.empty(rank, layer.in_features).uniform_(-1, 1, generator=generator)
    value = value.to(layer.weight) / math.sqrt(layer.in_features)
    made.weight = nn.Parameter(value)
    return made


def lora_layers(decoder: nn.Module) -> Iterator[tuple[nn.Module, str, LoraLinear]]:
    """Layers with an update: the module that each belongs to, its name there, and itself."""
    for module in decoder.modules():
        for name, child in module.named_children():
            if isinstance(child, LoraLinear):
                yield module, name, child


def merge_lora(decoder: nn.Module) -> None:
    """Fold all updates into the weights; plain layers remain."""
    for module, name, layer in list(lora_layers(decoder)):
        setattr(module, name, layer.merged())
