"""A transformers decoder on packed prompts: all of them in one row, none padded, none sees another.

    hidden = decode_packed(decoder, prompts)      # [total_tokens, hidden], differentiable

Token i of a prompt attends to the tokens j <= i of the same prompt, so the mask of the row is block
diagonal and causal. It is never formed: boundaries go to the attention instead. Which one computes
it depends on where the tensors are, and :func:`packed_attention_backend` says which:

    varlen       ``torch.nn.attention.varlen``: half precision on a GPU that has flash attention
    fastregion   our native kernels, ``ops.cross_attention``
    sdpa         torch's attention, prompt by prompt: any device and dtype

The decoder's attention implementation in transformers is ours from the first call on. Its other
calls, without packed prompts, run as with transformers' ``"sdpa"``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion._torchvision_guard import import_transformers
from fastregion.language.attention_limits import check_full_attention, head_padding
from fastregion.language.packed import PackedPrompts
from fastregion.ops import backend, cross_attention

_masking_utils: Any = import_transformers("masking_utils")
_modeling_utils: Any = import_transformers("modeling_utils")

__all__ = ["PACKED_ATTENTION", "decode_packed", "packed_attention_backend"]

PACKED_ATTENTION = "fastregion_packed"
"""The name of this attention in transformers (``attn_implementation``)."""

_LARGEST_WIDTH = 256  # of a head, in our kernels and in flash attention
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class _Row:
    """What the layers need to know about the sequences of a row.

    Attributes:
        cu_seqlens: int32 ``[S + 1]``.
        lengths: of the sequences, on the host.
        visible: bool ``[total_tokens]``, False for keys that no query sees; None for all.
    """

    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    visible: Tensor | None


def decode_packed(decoder: Any, prompts: PackedPrompts, visible: Tensor | None = None) -> Tensor:
    """Last hidden states of packed prompts, differentiable in embeddings and weights.

    Gradient checkpointing, autocast and adapters (LoRA) in the place of linear layers work as in
    any other call of the decoder.

    Args:
        decoder: a transformers ``LlamaForCausalLM`` or ``Qwen2ForCausalLM``; its attention
            implementation is set, see the module.
        prompts: ``B`` prompts.
        visible: bool ``[total_tokens]``; a token with False is hidden from all others and itself.

    Returns:
        ``[total_tokens, hidden]``, normalised, in the prompts' order.

    Raises:
        TypeError: not a transformers model, or ``visible`` is not bool.
        ValueError: ``visible`` has another shape or device than the prompts' positions.
        NotImplementedError: sliding-window layers.
    """
    _use_packed_attention(decoder)
    if visible is not None:
        _check_visible(visible, prompts)
    row = _Row(prompts.cu_seqlens, prompts.lengths, visible)
    # A mask of four dimensions is handed through by transformers, which makes none of its own then.
    out: Tensor = decoder.model(
        inputs_embeds=prompts.embeddings[None],
        position_ids=prompts.positions[None],
        attention_mask=prompts.cu_seqlens.view(1, 1, 1, -1),
        use_cache=False,
        packed_row=row,
    ).last_hidden_state
    return out[0]


def packed_attention_backend(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    head_dim: int = 64,
    masked: bool = False,
) -> str:
    """Which attention :func:`decode_packed` runs: ``"varlen"``, ``"fastregion"`` or ``"sdpa"``.

    Args:
        device: of the tensors.
        dtype: in which queries and keys are multiplied; that of autocast where it is on.
        head_dim: width of a head.
        masked: whether some tokens are hidden, which flash attention cannot do.
    """
    device = torch.device(device)
    width = head_dim + head_padding(head_dim)
    if width > _LARGEST_WIDTH:
        return "sdpa"
    if device.type == "cuda" and dtype in _HALF and not masked and _varlen() is not None:
        return "varlen"
    operators = ("cross_attention", "cross_attention_backward")
    native = all(backend(name, device) == device.type for name in operators)
    return "fastregion" if native else "sdpa"


@cache
def _varlen() -> Callable[..., Any] | None:
    """Torch's attention for sequences of different lengths, where it can do what is needed."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # torch < 2.10
        return None
    taken = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size", "enable_gqa"} <= taken.keys():
        return None
    if not torch.cuda.is_available():
        return None
    # Flash attention wants Ampere or newer.
    return varlen_attn if torch.cuda.get_device_capability() >= (8, 0) else None


def _use_packed_attention(decoder: Any) -> None:
    if getattr(getattr(decoder, "config", None), "_attn_implementation", None) != PACKED_ATTENTION:
        check_full_attention("decoder", decoder)
        decoder.set_attn_implementation(PACKED_ATTENTION)


def _check_visible(visible: Tensor, prompts: PackedPrompts) -> None:
    if visible.dtype != torch.bool:
        raise TypeError(f"visible: expected bool, got {visible.dtype}")
    if visible.shape != prompts.positions.shape or visible.device != prompts.positions.device:
        raise ValueError(
            f"visible: expected shape {tuple(prompts.positions.shape)} on "
            f"{prompts.positions.device} to match the prompts, got shape {tuple(visible.shape)} "
            f"on {visible.device}"
        )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_row: _Row | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface: ``[1, H, total, D]`` queries to ``[1, total, H, D]``."""
    if packed_row is None:
        plain = _modeling_utils.ALL_ATTENTION_FUNCTIONS["sdpa"]
        found: tuple[Tensor, None] = plain(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    if dropout:
        raise NotImplementedError(
            f"{PACKED_ATTENTION} attention: attention dropout must be 0, got {dropout}"
        )
    device = query.device.type
    # Operators of our own know nothing of autocast, under which the rotary embedding leaves queries
    # and keys in another dtype than values.
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else value.dtype
    q, k, v = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))  # [total, heads, D]
    width = q.shape[-1]
    scaling = width**-0.5 if scaling is None else scaling
    chosen = packed_attention_backend(
        query.device, dtype, head_dim=width, masked=packed_row.visible is not None
    )
    if chosen == "sdpa":
        return _by_sequence(q, k, v, packed_row, scaling)[None], None
    if padding := head_padding(width):
        q, k, v = (F.pad(x, (0, padding)) for x in (q, k, v))
    kernel = _by_varlen if chosen == "varlen" else _by_kernel
    return kernel(q, k, v, packed_row, scaling)[None, ..., :width], None


def _by_varlen(q: Tensor, k: Tensor, v: Tensor, row: _Row, scale: float) -> Tensor:
    varlen, longest = _varlen(), max(row.lengths)
    assert varlen is not None
    out: Tensor = varlen(
        q,
        k,
        v,
        row.cu_seqlens,
        row.cu_seqlens,
        longest,
        longest,
        scale=scale,
        window_size=(-1, 0),  # causal
        enable_gqa=True,
    )
    return out


def _by_kernel(q: Tensor, k: Tensor, v: Tensor, row: _Row, scale: float) -> Tensor:
    bias = None
    if row.visible is not None:
        bias = torch.zeros(row.visible.shape, device=q.device)
        bias.masked_fill_(~row.visible, float("-inf"))
    cu = row.cu_seqlens
    out, _ = cross_attention(
        q, k, v, bias, scale=scale, causal=True, cu_seqlens_q=cu, cu_seqlens_k=cu
    )
    return out


def _by_sequence(q: Tensor, k: Tensor, v: Tensor, row: _Row, scale: float) -> Tensor:
    group, lengths = q.shape[1] // k.shape[1], list(row.lengths)
    # Repeated keys, as not every kernel behind SDPA takes groups of heads.
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    heads = [torch.split(x.transpose(0, 1)[None], lengths, 2) for x in (q, k, v)]
    parts = []
    for index, (one_q, one_k, one_v) in enumerate(zip(*heads, strict=True)):
        mask = None
        if row.visible is not None:
            keys = torch.split(row.visible, lengths)[index]
            mask = keys & keys.new_ones(len(keys), len(keys)).tril()
        parts.append(
            F.scaled_dot_product_attention(
                one_q, one_k, one_v, attn_mask=mask, is_causal=mask is None, scale=scale
            )
        )
    return torch.cat(parts, 2)[0].transpose(0, 1)


def _mask(*args: Any, **kwargs: Any) -> Any:
    """Transformers' mask interface, asked only by calls without packed prompts."""
    return _masking_utils.ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](*args, **kwargs)


_modeling_utils.ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, _attention)
_masking_utils.ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, _mask)
