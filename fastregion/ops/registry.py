"""The table of operators: what each computes, where it runs natively, what it differentiates.

Data only, read by ``fastregion info``, by the documentation and by the choice of backend. The
plain-torch reference of every operator runs on any device torch knows; ``native`` lists the
backends that have a kernel of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of ``fastregion.ops``.

    Attributes:
        name: Name in ``fastregion.ops`` and in the ``fastregion::`` torch namespace.
        contract: One line, shapes in and shapes out.
        native: Backends with a forward kernel.
        native_backward: Backends with a backward kernel; empty where nothing is differentiable.
        differentiable: Names of the arguments that receive gradients.
        deterministic: Whether the native kernels give the same bits for the same input.
    """

    name: str
    contract: str
    native: tuple[str, ...]
    native_backward: tuple[str, ...] = ()
    differentiable: tuple[str, ...] = ()
    deterministic: bool = True


_OPERATORS = (
    Operator(
        name="roi_replay",
        contract=(
            "tiles [T, P, C], boxes [R, 4] in feature cells -> [R, oh*ow, C]: RoI-Align read "
            "straight from tile-major tokens"
        ),
        native=("cpu", "cuda"),
        native_backward=("cpu", "cuda"),
        differentiable=("tiles",),
    ),
    Operator(
        name="roi_align",
        contract=(
            "input [N, C, H, W], boxes [R, 5] or a list of [L, 4] -> [R, C, oh, ow]: RoI-Align "
            "with torchvision's arguments, planes or channels last"
        ),
        native=("cpu", "cuda"),
        native_backward=("cpu", "cuda"),
        differentiable=("input",),
        deterministic=False,
    ),
    Operator(
        name="mask_tiles",
        contract=(
            "masks [M, H, W] binary, grid (rows, columns), tile_size -> bit-packed [M, T, th, tw]: "
            "nearest resize and split, thumbnail first"
        ),
        native=("cpu", "cuda"),
    ),
    Operator(
        name="mask_resize",
        contract=(
            "masks [..., H, W] binary, size (h, w), rule -> grey [..., h, w] uint8: Pillow's "
            "bicubic, to the byte"
        ),
        native=("cpu", "cuda"),
    ),
    Operator(
        name="mask_encode",
        contract=(
            "tiles [T, H, W] binary or grey, conv1 [M, 1, 3, 3], conv2 [N, M, 3, 3], linear "
            "[C, P] -> [T, N, C]: URECA's mask encoder, summed over the mask's outline"
        ),
        native=("cpu", "cuda"),
        native_backward=("cpu", "cuda"),
        differentiable=(
            "conv1_weight",
            "conv1_bias",
            "conv2_weight",
            "conv2_bias",
            "linear_weight",
            "linear_bias",
        ),
    ),
    Operator(
        name="mask_patch_embed",
        contract=(
            "tiles [T, H, W] binary or grey, weight [C, ch, k, k], bias, add_to -> [T, N, C]: "
            "convolution with stride = kernel over a mask, added to patch tokens, in place too"
        ),
        native=("cpu", "cuda"),
        native_backward=("cpu", "cuda"),
        differentiable=("weight", "bias", "add_to"),
    ),
    Operator(
        name="gated_residual_norm",
        contract=(
            "x, branch [..., C], gate [1] or [C], norm_weight, norm_bias [C] -> y, normed "
            "[..., C]: a gated residual and the layer norm after it in one pass"
        ),
        native=("cpu", "cuda"),
        native_backward=("cpu", "cuda"),
        differentiable=("x", "branch", "gate", "norm_weight", "norm_bias"),
    ),
    Operator(
        name="pack_rows",
        contract=(
            "sources [N_i, D], rows [total] -> [total, D]: rows of several sources as if they were "
            "concatenated, in place too; pack_tokens numbers the rows of prompts with placeholders"
        ),
        native=("cpu", "cuda"),
        native_backward=("cpu", "cuda"),
        differentiable=("sources",),
    ),
    Operator(
        name="cross_attention",
        contract=(
            "q [B, Nq, H, D], k, v [B, Nk, Hkv, D] or packed with cu_seqlens, key_bias [B, Nk] -> "
            "out like q, logsumexp [B, Nq, H]: streaming softmax attention"
        ),
        native=("cpu", "cuda"),
        native_backward=("cpu", "cuda"),
        differentiable=("q", "k", "v", "key_bias"),
    ),
    Operator(
        name="append_kv_",
        contract=(
            "keys and values of S rows in blocks of 16 columns, k_new and v_new [T, KV, D], rows "
            "[T], columns [T]: tokens written into the cache"
        ),
        native=("cpu", "cuda"),
    ),
    Operator(
        name="decode_attention",
        contract=(
            "q [T, H, D], keys and values of S rows in blocks of 16 columns, lengths [N] -> "
            "[T, H, D], logsumexp [T, H]: new tokens against a cache, with shared prefixes"
        ),
        native=("cpu", "cuda"),
    ),
    Operator(
        name="pack_bits",
        contract="masks [..., H, W] bool or uint8 -> words [..., H, ceil(W / 64)]",
        native=("cpu", "cuda"),
    ),
    Operator(
        name="unpack_bits",
        contract="words [..., H, ceil(W / 64)], width W -> masks [..., H, W] bool",
        native=("cpu", "cuda"),
    ),
)

OPERATORS: Mapping[str, Operator] = MappingProxyType({op.name: op for op in _OPERATORS})
