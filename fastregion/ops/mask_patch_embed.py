"""Patch embedding of binary masks: a convolution with stride = kernel, added to patch tokens.

    out[t, (y, x), c] = add_to[t, (y, x), c] + bias[c]
                        + sum over ch, i, j of weight[c, ch, i, j] * tiles[t, y * k + i, x * k + j]

Shapes: ``tiles [T, H, W]`` binary, ``weight [C, ch, k, k]``, ``bias [C]``, ``add_to`` and the
result ``[T, N, C]`` with ``N = (H // k) * (W // k)`` patches, row-major; rows and columns of pixels
past the last whole patch are not read. The ``ch`` input channels all hold the same mask (GAR's
three equal channels), so the kernel is summed over them once.

An empty patch gives the bias, a full one a precomputed vector; neither costs arithmetic. Any other
is the cheapest of: the mask's corner points times suffix sums of the kernel, its set pixels, or
the full vector less its unset pixels.

Dtypes: ``weight`` float32, float64, float16, bfloat16; ``bias``, ``add_to`` and the result share
it. Numerics: summed in float32 (float64 for float64), rounded once. Autocast: none, the dtype given
is the dtype computed with. Differentiable in ``weight`` (twice), ``bias`` and ``add_to``.
Deterministic. Devices: any (reference); see ``fastregion.ops.OPERATORS`` for kernels.
Grey masks (DAM's resized masks have grey edges) are refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.bit_masks import BitMasks, unpack_bits_reference
from fastregion.ops.checks import (
    accumulation_dtype,
    check_floating,
    check_same_device,
    check_same_dtype,
    dtype_name,
)
from fastregion.ops.native import DTYPE_CODES, run
from fastregion.ops.registration import register, register_gradient

_LARGEST_KERNEL = 64  # a patch row is one word in the native kernels


def _patches(words: Tensor, width: int, kernel_size: int, dtype: torch.dtype) -> Tensor:
    """Pixels of every patch: ``[T, N, k * k]``."""
    rows, columns = words.shape[1] // kernel_size, width // kernel_size
    masks = unpack_bits_reference(words, width)
    masks = masks[:, : rows * kernel_size, : columns * kernel_size]
    num_tiles = words.shape[0]
    split = masks.reshape(num_tiles, rows, kernel_size, columns, kernel_size).transpose(2, 3)
    return split.reshape(num_tiles, rows * columns, kernel_size * kernel_size).to(dtype)


def mask_patch_embed_reference(
    words: Tensor, width: int, weight: Tensor, bias: Tensor | None, add_to: Tensor | None
) -> Tensor:
    """The definition, in plain torch; every backend is held to it (float64 stays float64)."""
    dtype = accumulation_dtype(weight.dtype)
    kernel = weight.to(dtype).sum(1).flatten(1)  # [C, k * k]
    out = _patches(words, width, weight.shape[-1], dtype) @ kernel.t()
    if bias is not None:
        out = out + bias
    if add_to is not None:
        out = out + add_to
    return out.to(weight.dtype)


def mask_patch_embed_backward_reference(
    grad: Tensor, words: Tensor, width: int, input_channels: int, kernel_size: int
) -> Tensor:
    """Gradient of the weight ``[C, ch, k, k]`` from the gradient of the result ``[T, N, C]``."""
    dtype = accumulation_dtype(grad.dtype)
    patches = _patches(words, width, kernel_size, dtype).flatten(0, 1)  # [T * N, k * k]
    kernel = (grad.to(dtype).flatten(0, 1).t() @ patches).to(grad.dtype)
    kernel = kernel.view(-1, 1, kernel_size, kernel_size)
    return kernel.expand(-1, input_channels, -1, -1).contiguous()


def mask_patch_embed(
    tiles: Tensor | BitMasks,
    weight: Tensor,
    bias: Tensor | None = None,
    add_to: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Embed binary mask tiles by patches and add the result to existing patch tokens.

    Args:
        tiles: ``[T, H, W]`` bool, or bit-packed (what ``mask_tiles`` returns).
        weight: ``[C, ch, k, k]`` kernel of the convolution with stride k, without padding.
        bias: ``[C]``.
        add_to: ``[T, N, C]`` tokens that the embedding is added to; left unchanged.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``[T, N, C]`` in the dtype of ``weight``.

    Raises:
        TypeError: Tiles that are not bool or ``BitMasks``, or parameters of other dtypes than the
            module lists, or of dtypes that differ.
        ValueError: Shapes that do not fit, or tensors on different devices.
        NotImplementedError: Floating-point (grey) tiles.
    """
    name = "mask_patch_embed"
    if not isinstance(tiles, BitMasks):
        tiles = _packed(tiles, backend)
    if len(tiles.shape) != 3:
        raise ValueError(f"{name}: tiles must be [T, H, W], got shape {tiles.shape}")
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3] or 0 in weight.shape[1:]:
        raise ValueError(
            f"{name}: weight must be [C, ch, k, k] with ch and k at least 1, "
            f"got shape {tuple(weight.shape)}"
        )
    check_floating(name, weight=weight)
    check_same_dtype(name, weight=weight, bias=bias, add_to=add_to)
    check_same_device(name, tiles=tiles.words, weight=weight, bias=bias, add_to=add_to)
    channels, kernel_size = weight.shape[0], weight.shape[3]
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"{name}: bias must be [{channels}], got shape {tuple(bias.shape)}")
    num_tiles, height, width = tiles.shape
    expected = (num_tiles, (height // kernel_size) * (width // kernel_size), channels)
    if add_to is not None and add_to.shape != expected:
        raise ValueError(
            f"{name}: add_to must be {expected} (tiles, patches, channels), "
            f"got shape {tuple(add_to.shape)}"
        )
    out: Tensor = torch.ops.fastregion.mask_patch_embed(
        tiles.words, width, weight, bias, add_to, backend or ""
    )
    return out


def _packed(tiles: Tensor, backend: str | None) -> BitMasks:
    if tiles.is_floating_point():
        raise NotImplementedError(
            f"mask_patch_embed: tiles must be binary (bool or BitMasks), got "
            f"{dtype_name(tiles.dtype)}; grey masks are not supported yet, threshold first, "
            "e.g. tiles > 0.5"
        )
    if tiles.dtype != torch.bool:
        raise TypeError(
            f"mask_patch_embed: tiles must be bool or BitMasks, got {dtype_name(tiles.dtype)}; "
            "say what is inside, e.g. tiles > 0"
        )
    return BitMasks.pack(tiles, backend=backend)


def _forward(
    words: Tensor,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    add_to: Tensor | None,
    backend: str,
) -> Tensor:
    chosen = choose_backend(
        "mask_patch_embed",
        weight.device,
        force=backend,
        limit=_kernel_limit(weight.shape[3]),
    )
    if chosen == "reference":
        return mask_patch_embed_reference(words, width, weight, bias, add_to)
    out = _forward_fake(words, width, weight, bias, add_to, backend)
    words, weight = words.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    add_to = None if add_to is None else add_to.contiguous()
    run(
        chosen,
        "masks.mask_patch_embed",
        weight.device,
        DTYPE_CODES[weight.dtype],
        words.data_ptr(),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        0 if add_to is None else add_to.data_ptr(),
        out.data_ptr(),
        words.shape[0],
        words.shape[1],
        width,
        *weight.shape[:3],
    )
    return out


def _backward(
    grad: Tensor, words: Tensor, width: int, input_channels: int, kernel_size: int, backend: str
) -> Tensor:
    chosen = choose_backend(
        "mask_patch_embed_backward", grad.device, force=backend, limit=_kernel_limit(kernel_size)
    )
    if chosen == "reference":
        return mask_patch_embed_backward_reference(grad, words, width, input_channels, kernel_size)
    out = _backward_fake(grad, words, width, input_channels, kernel_size, backend)
    words, grad = words.contiguous(), grad.contiguous()
    run(
        chosen,
        "masks.mask_patch_embed_backward",
        grad.device,
        DTYPE_CODES[grad.dtype],
        words.data_ptr(),
        grad.data_ptr(),
        out.data_ptr(),
        words.shape[0],
        words.shape[1],
        width,
        *out.shape[:3],
    )
    return out


def _kernel_limit(kernel_size: int) -> str | None:
    if kernel_size <= _LARGEST_KERNEL:
        return None
    return f"native kernels take patches of at most {_LARGEST_KERNEL} pixels, got {kernel_size}"


def _forward_fake(
    words: Tensor,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    add_to: Tensor | None,
    backend: str,
) -> Tensor:
    patches = (words.shape[1] // weight.shape[3]) * (width // weight.shape[3])
    return weight.new_empty((words.shape[0], patches, weight.shape[0]))


def _backward_fake(
    grad: Tensor, words: Tensor, width: int, input_channels: int, kernel_size: int, backend: str
) -> Tensor:
    return grad.new_empty((grad.shape[2], input_channels, kernel_size, kernel_size))


def _save_words(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    words, width, weight, _, _, backend = inputs
    ctx.save_for_backward(words)
    ctx.settings = (width, weight.shape[1], weight.shape[3], backend)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (words,) = ctx.saved_tensors
    _, _, weight, bias, add_to, _ = ctx.needs_input_grad
    grad_weight = (
        torch.ops.fastregion.mask_patch_embed_backward(grad, words, *ctx.settings)
        if weight
        else None
    )
    grad_bias = grad.sum((0, 1)) if bias else None
    return None, None, grad_weight, grad_bias, grad if add_to else None, None


def _save_words_again(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, words, ctx.width, _, _, ctx.backend = inputs
    ctx.save_for_backward(words)


def _second_gradient(ctx: Any, grad_weight: Tensor) -> tuple[Tensor | None, ...]:
    # The operator is linear in the weight: the gradient of its gradient is the forward again.
    (words,) = ctx.saved_tensors
    grad = torch.ops.fastregion.mask_patch_embed(
        words, ctx.width, grad_weight, None, None, ctx.backend
    )
    return grad, None, None, None, None, None


register(
    "mask_patch_embed(Tensor words, SymInt width, Tensor weight, Tensor? bias, Tensor? add_to, "
    "str backend) -> Tensor",
    _forward,
    _forward_fake,
)
register(
    "mask_patch_embed_backward(Tensor grad, Tensor words, SymInt width, SymInt input_channels, "
    "SymInt kernel_size, str backend) -> Tensor",
    _backward,
    _backward_fake,
)
register_gradient("mask_patch_embed", _gradients, _save_words)
register_gradient("mask_patch_embed_backward", _second_gradient, _save_words_again)
