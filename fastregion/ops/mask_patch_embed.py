"""Patch embedding of masks: a convolution with stride = kernel, added to patch tokens.

    out[t, (y, x), c] = add_to[t, (y, x), c] + bias[c]
                        + sum over ch, i, j of weight[c, ch, i, j] * m[t, y * k + i, x * k + j]

Shapes: ``tiles [T, H, W]``, ``weight [C, ch, k, k]``, ``bias [C]``, ``add_to`` and the result
``[T, N, C]`` with ``N = (H // k) * (W // k)`` patches, row-major; rows and columns of pixels past
the last whole patch are not read. The ``ch`` input channels all hold the same mask (GAR's three
equal channels), so the kernel is summed over them once.

The value m of a pixel is 1 inside and ``outside`` (0 if not given) outside. Tiles are binary (bool
or ``BitMasks``), or grey (uint8): level 255 is inside, 0 outside, and those in between, which a
resize makes, lie between the two, ``m = outside + (1 - outside) * level / 255``, computed in
float64 and rounded to the dtype of ``weight``. DAM's masks are grey with ``outside=-1``: the 256
values are those of the published preprocessing, bit for bit in float16 and bfloat16.

An empty patch gives ``bias + outside * sum of the kernel``, one vector for all of them, a full one
another such vector; neither costs arithmetic. A patch on an outline is the cheapest of: the mask's
corner points times suffix sums of the kernel, its set pixels, or the full vector less its unset
pixels, grey pixels one by one. Where all of these are many (noise), patches are gathered and
multiplied as a matrix.

``mask_patch_embed_`` adds to tokens in place, and only to those whose patches are not empty.
``mask_patch_table`` makes what both need of a weight ahead of many calls.

Dtypes: ``weight`` float32, float64, float16, bfloat16; ``bias``, ``add_to`` and the result share
it. Numerics: summed in float32 (float64 for float64), rounded once. Autocast: none, the dtype given
is the dtype computed with. Differentiable in ``weight`` (twice), ``bias`` and ``add_to``.
Deterministic. Devices: any (reference); see ``fastregion.ops.OPERATORS`` for kernels.
"""

from __future__ import annotations

import math
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
    check_writable_rows,
    dtype_name,
    refuse_gradients,
)
from fastregion.ops.native import DTYPE_CODES, family, run, wrote_to
from fastregion.ops.registration import register, register_gradient

_LARGEST_KERNEL = 64  # a patch row is one word in the native kernels


def _values(
    tiles: Tensor, width: int, kernel_size: int, outside: float, dtype: torch.dtype
) -> Tensor:
    """Values of every patch's pixels, ``[T, N, k * k]``, rounded to ``dtype``."""
    rows, columns = tiles.shape[1] // kernel_size, width // kernel_size
    if tiles.dtype == torch.uint8:
        inside = tiles.double() / 255
    else:
        inside = unpack_bits_reference(tiles, width).double()
    values = (outside + (1 - outside) * inside).to(accumulation_dtype(dtype)).to(dtype)
    values = values[:, : rows * kernel_size, : columns * kernel_size]
    num_tiles = tiles.shape[0]
    split = values.reshape(num_tiles, rows, kernel_size, columns, kernel_size).transpose(2, 3)
    return split.reshape(num_tiles, rows * columns, kernel_size * kernel_size)


def mask_patch_table_reference(weight: Tensor) -> Tensor:
    """Rows ``[2 * k * k, C]``: the kernel, and its sums over all pixels below and to the right."""
    kernel = weight.to(accumulation_dtype(weight.dtype)).sum(1).permute(1, 2, 0)  # [k, k, C]
    corners = kernel.flip(0, 1).cumsum(0).cumsum(1).flip(0, 1)
    return torch.cat((kernel.flatten(0, 1), corners.flatten(0, 1)))


def mask_patch_embed_reference(
    tiles: Tensor,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    add_to: Tensor | None,
    outside: float,
) -> Tensor:
    """The definition, in plain torch; every backend is held to it (float64 stays float64)."""
    dtype = accumulation_dtype(weight.dtype)
    kernel = weight.to(dtype).sum(1).flatten(1)  # [C, k * k]
    out = _values(tiles, width, weight.shape[-1], outside, weight.dtype).to(dtype) @ kernel.t()
    if bias is not None:
        out = out + bias
    if add_to is not None:
        out = out + add_to
    return out.to(weight.dtype)


def mask_patch_embed_in_place_reference(
    tokens: Tensor, tiles: Tensor, width: int, weight: Tensor, outside: float
) -> None:
    """``tokens`` += embedding of the tiles less that of empty ones."""
    dtype = accumulation_dtype(weight.dtype)
    kernel = weight.to(dtype).sum(1).flatten(1)  # [C, k * k]
    background = float(torch.tensor(outside, dtype=dtype).to(weight.dtype))
    values = _values(tiles, width, weight.shape[-1], outside, weight.dtype).to(dtype)
    tokens.copy_(tokens + (values - background) @ kernel.t())


def mask_patch_embed_backward_reference(
    grad: Tensor,
    tiles: Tensor,
    width: int,
    input_channels: int,
    kernel_size: int,
    outside: float,
) -> Tensor:
    """Gradient of the weight ``[C, ch, k, k]`` from the gradient of the result ``[T, N, C]``."""
    dtype = accumulation_dtype(grad.dtype)
    values = _values(tiles, width, kernel_size, outside, grad.dtype).to(dtype)
    kernel = (grad.to(dtype).flatten(0, 1).t() @ values.flatten(0, 1)).to(grad.dtype)
    kernel = kernel.view(-1, 1, kernel_size, kernel_size)
    return kernel.expand(-1, input_channels, -1, -1).contiguous()


def mask_patch_embed(
    tiles: Tensor | BitMasks,
    weight: Tensor,
    bias: Tensor | None = None,
    add_to: Tensor | None = None,
    *,
    outside: float = 0.0,
    table: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Embed mask tiles by patches and add the result to existing patch tokens.

    Args:
        tiles: ``[T, H, W]``: bool, bit-packed (what ``mask_tiles`` returns), or uint8 grey levels,
            of which 255 is inside (a mask of 0 and 1 goes in as ``mask.bool()``).
        weight: ``[C, ch, k, k]`` kernel of the convolution with stride k, without padding.
        bias: ``[C]``.
        add_to: ``[T, N, C]`` tokens that the embedding is added to; left unchanged.
        outside: Value of pixels outside of the mask; those inside are 1. DAM: -1.
        table: ``mask_patch_table(weight)``, if it was made before; it must be of this very weight.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``[T, N, C]`` in the dtype of ``weight``.

    Raises:
        TypeError: Tiles that are not bool, uint8 or ``BitMasks``, or parameters of other dtypes
            than the module lists, or of dtypes that differ.
        ValueError: Shapes that do not fit, tensors on different devices, or an infinite
            ``outside``.
    """
    name = "mask_patch_embed"
    data, shape = _data(name, tiles, backend)
    expected = _check(name, data, shape, weight, outside, table, bias=bias, add_to=add_to)
    if bias is not None and bias.shape != expected[2:]:
        raise ValueError(f"{name}: bias must be [{expected[2]}], got shape {tuple(bias.shape)}")
    if add_to is not None and add_to.shape != expected:
        raise ValueError(
            f"{name}: add_to must be {expected} (tiles, patches, channels), "
            f"got shape {tuple(add_to.shape)}"
        )
    out: Tensor = torch.ops.fastregion.mask_patch_embed(
        data, shape[2], weight, bias, add_to, outside, table, backend or ""
    )
    return out


def mask_patch_embed_(
    tokens: Tensor,
    tiles: Tensor | BitMasks,
    weight: Tensor,
    *,
    outside: float = 0.0,
    table: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Add to tokens, in place, what the mask makes of them; for inference.

    What is added is the embedding of the tiles less that of empty ones, so that tokens of empty
    patches are not touched. Where ``outside`` is not 0 or there is a bias, the embedding of an
    empty patch, ``bias + outside * weight.sum((1, 2, 3))``, is one vector: add it once, to the
    position embedding.

    Args:
        tokens: ``[T, N, C]`` in the dtype of ``weight``; a slice will do, e.g. without the class
            token.
        tiles: As for ``mask_patch_embed``, and so are the other arguments.
        weight: ``[C, ch, k, k]``.
        outside: Value of pixels outside of the mask.
        table: ``mask_patch_table(weight)``, if it was made before.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``tokens``.

    Raises:
        TypeError: As ``mask_patch_embed``.
        ValueError: As ``mask_patch_embed``; ``tokens`` that share memory with each other; or
            ``tokens`` or ``weight`` require a gradient, and gradients are enabled.
    """
    name = "mask_patch_embed_"
    data, shape = _data(name, tiles, backend)
    expected = _check(name, data, shape, weight, outside, table, tokens=tokens)
    if tokens.shape != expected:
        raise ValueError(
            f"{name}: tokens must be {expected} (tiles, patches, channels), "
            f"got shape {tuple(tokens.shape)}"
        )
    check_writable_rows(name, "tokens", tokens, strided_channels=True)
    instead = "use mask_patch_embed(..., add_to=tokens), or "
    refuse_gradients(name, instead=instead, tokens=tokens, weight=weight)
    torch.ops.fastregion.mask_patch_embed_(
        tokens, data, shape[2], weight, outside, table, backend or ""
    )
    return tokens


def mask_patch_table(weight: Tensor, *, backend: str | None = None) -> Tensor:
    """Make the table of kernel rows that ``mask_patch_embed`` otherwise makes in every call.

    Args:
        weight: ``[C, ch, k, k]``.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``[2 * k * k, C]``, float32 (float64 for float64), without a gradient: a cache, to be made
        again when the weight changes.

    Raises:
        TypeError: Another dtype than the module lists.
        ValueError: A weight of another shape.
    """
    name = "mask_patch_table"
    _check_weight(name, weight)
    table: Tensor = torch.ops.fastregion.mask_patch_table(weight.detach(), backend or "")
    return table


def _data(
    name: str, tiles: Tensor | BitMasks, backend: str | None
) -> tuple[Tensor, tuple[int, ...]]:
    """Words or grey levels, and the shape in pixels."""
    if not isinstance(tiles, BitMasks):
        if tiles.dtype not in (torch.bool, torch.uint8):
            raise TypeError(
                f"{name}: tiles must be bool, uint8 (grey levels, 255 is inside) or BitMasks, got "
                f"{dtype_name(tiles.dtype)}; say what is inside, e.g. tiles > 0.5"
            )
        if tiles.dtype == torch.bool and tiles.dim() >= 2:
            tiles = BitMasks.pack(tiles, backend=backend)
    if len(tiles.shape) != 3:
        raise ValueError(f"{name}: tiles must be [T, H, W], got shape {tuple(tiles.shape)}")
    return tiles.words if isinstance(tiles, BitMasks) else tiles, tuple(tiles.shape)


def _check_weight(name: str, weight: Tensor) -> None:
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3] or 0 in weight.shape[1:]:
        raise ValueError(
            f"{name}: weight must be [C, ch, k, k] with ch and k at least 1, "
            f"got shape {tuple(weight.shape)}"
        )
    check_floating(name, weight=weight)


def _check(
    name: str,
    data: Tensor,
    shape: tuple[int, ...],
    weight: Tensor,
    outside: float,
    table: Tensor | None,
    **tensors: Tensor | None,
) -> tuple[int, int, int]:
    """Check what the two forms share; return the shape of the tokens."""
    _check_weight(name, weight)
    check_same_dtype(name, weight=weight, **tensors)
    check_same_device(name, tiles=data, weight=weight, table=table, **tensors)
    if not -math.inf < outside < math.inf:  # math.isfinite breaks graphs of torch.compile
        raise ValueError(f"{name}: outside must be finite, got {outside}")
    channels, kernel_size = weight.shape[0], weight.shape[3]
    rows = (2 * kernel_size**2, channels)
    dtype = accumulation_dtype(weight.dtype)
    if table is not None and (table.shape != rows or table.dtype != dtype):
        raise ValueError(
            f"{name}: table must be mask_patch_table(weight), {rows} in {dtype_name(dtype)}, "
            f"got shape {tuple(table.shape)} in {dtype_name(table.dtype)}"
        )
    return shape[0], (shape[1] // kernel_size) * (shape[2] // kernel_size), channels


def _choose(weight: Tensor, backend: str, operator: str = "mask_patch_embed") -> str:
    size = weight.shape[3]
    limit = None
    if size > _LARGEST_KERNEL:
        limit = f"native kernels take patches of at most {_LARGEST_KERNEL} pixels, got {size}"
    return choose_backend(operator, weight.device, force=backend, limit=limit)


def _table(weight: Tensor, backend: str) -> Tensor:
    chosen = _choose(weight, backend)
    if chosen == "reference":
        return mask_patch_table_reference(weight)
    table = _table_fake(weight, backend)
    weight = weight.contiguous()
    kernel = _kernel(weight)
    arguments = (kernel, weight.data_ptr(), table.data_ptr())
    run(chosen, "masks.mask_patch_table", weight.device, *arguments)
    return table


def _kernel(weight: Tensor) -> Any:
    return family("masks").MaskPatchWeight(DTYPE_CODES[weight.dtype], *weight.shape[:3])


def _patches(tiles: Tensor, width: int, weight: Tensor, outside: float) -> Any:
    return family("masks").MaskPatches(
        DTYPE_CODES[weight.dtype],
        tiles.dtype == torch.uint8,
        tiles.data_ptr(),
        *tiles.shape[:2],
        width,
        weight.shape[3],
        outside,
    )


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _forward(
    tiles: Tensor,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    add_to: Tensor | None,
    outside: float,
    table: Tensor | None,
    backend: str,
) -> Tensor:
    chosen = _choose(weight, backend)
    if chosen == "reference":
        return mask_patch_embed_reference(tiles, width, weight, bias, add_to, outside)
    out = _forward_fake(tiles, width, weight, bias, add_to, outside, table, backend)
    tiles = tiles.contiguous()
    table = _table(weight, chosen) if table is None else table.contiguous()
    bias = None if bias is None else bias.contiguous()
    add_to = None if add_to is None else add_to.contiguous()
    tokens = family("masks").MaskPatchTokens(
        table.data_ptr(),
        _pointer(bias),
        _pointer(add_to),
        out.data_ptr(),
        *out.stride()[:2],
        out.shape[2],
        True,
    )
    patches = _patches(tiles, width, weight, outside)
    run(chosen, "masks.mask_patch_embed", weight.device, patches, tokens)
    return out


def _in_place(
    tokens: Tensor,
    tiles: Tensor,
    width: int,
    weight: Tensor,
    outside: float,
    table: Tensor | None,
    backend: str,
) -> None:
    chosen = _choose(weight, backend)
    if chosen == "reference":
        mask_patch_embed_in_place_reference(tokens, tiles, width, weight, outside)
        return
    tiles = tiles.contiguous()
    table = _table(weight, chosen) if table is None else table.contiguous()
    rows = tokens if tokens.stride(2) == 1 else tokens.contiguous()
    target = family("masks").MaskPatchTokens(
        table.data_ptr(),
        0,
        rows.data_ptr(),
        rows.data_ptr(),
        *rows.stride()[:2],
        rows.shape[2],
        False,
    )
    patches = _patches(tiles, width, weight, outside)
    run(chosen, "masks.mask_patch_embed", weight.device, patches, target)
    if rows is tokens:
        wrote_to(tokens)
    else:
        tokens.copy_(rows)


def _backward(
    grad: Tensor,
    tiles: Tensor,
    width: int,
    input_channels: int,
    kernel_size: int,
    outside: float,
    backend: str,
) -> Tensor:
    out = _backward_fake(grad, tiles, width, input_channels, kernel_size, outside, backend)
    chosen = _choose(out, backend, "mask_patch_embed_backward")
    if chosen == "reference":
        return mask_patch_embed_backward_reference(
            grad, tiles, width, input_channels, kernel_size, outside
        )
    tiles, grad = tiles.contiguous(), grad.contiguous()
    run(
        chosen,
        "masks.mask_patch_embed_backward",
        grad.device,
        _patches(tiles, width, out, outside),
        _kernel(out),
        grad.data_ptr(),
        out.data_ptr(),
    )
    return out


def _table_fake(weight: Tensor, backend: str) -> Tensor:
    shape = (2 * weight.shape[3] ** 2, weight.shape[0])
    return weight.new_empty(shape, dtype=accumulation_dtype(weight.dtype))


def _forward_fake(
    tiles: Tensor,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    add_to: Tensor | None,
    outside: float,
    table: Tensor | None,
    backend: str,
) -> Tensor:
    patches = (tiles.shape[1] // weight.shape[3]) * (width // weight.shape[3])
    return weight.new_empty((tiles.shape[0], patches, weight.shape[0]))


def _in_place_fake(
    tokens: Tensor,
    tiles: Tensor,
    width: int,
    weight: Tensor,
    outside: float,
    table: Tensor | None,
    backend: str,
) -> None:
    return None


def _backward_fake(
    grad: Tensor,
    tiles: Tensor,
    width: int,
    input_channels: int,
    kernel_size: int,
    outside: float,
    backend: str,
) -> Tensor:
    return grad.new_empty((grad.shape[2], input_channels, kernel_size, kernel_size))


def _save_tiles(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tiles, width, weight, _, _, outside, _, backend = inputs
    ctx.save_for_backward(tiles)
    ctx.settings = (width, weight.shape[1], weight.shape[3], outside, backend)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (tiles,) = ctx.saved_tensors
    _, _, weight, bias, add_to, *_ = ctx.needs_input_grad
    grad_weight = (
        torch.ops.fastregion.mask_patch_embed_backward(grad, tiles, *ctx.settings)
        if weight
        else None
    )
    grad_bias = grad.sum((0, 1)) if bias else None
    return None, None, grad_weight, grad_bias, grad if add_to else None, None, None, None


def _save_tiles_again(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, tiles, ctx.width, _, _, ctx.outside, ctx.backend = inputs
    ctx.save_for_backward(tiles)


def _second_gradient(ctx: Any, grad_weight: Tensor) -> tuple[Tensor | None, ...]:
    # The operator is linear in the weight: the gradient of its gradient is the forward again.
    (tiles,) = ctx.saved_tensors
    grad = torch.ops.fastregion.mask_patch_embed(
        tiles, ctx.width, grad_weight, None, None, ctx.outside, None, ctx.backend
    )
    return grad, None, None, None, None, None, None


register("mask_patch_table(Tensor weight, str backend) -> Tensor", _table, _table_fake)
register(
    "mask_patch_embed(Tensor tiles, SymInt width, Tensor weight, Tensor? bias, Tensor? add_to, "
    "float outside, Tensor? table, str backend) -> Tensor",
    _forward,
    _forward_fake,
)
register(
    "mask_patch_embed_(Tensor(a!) tokens, Tensor tiles, SymInt width, Tensor weight, "
    "float outside, Tensor? table, str backend) -> ()",
    _in_place,
    _in_place_fake,
)
register(
    "mask_patch_embed_backward(Tensor grad, Tensor tiles, SymInt width, SymInt input_channels, "
    "SymInt kernel_size, float outside, str backend) -> Tensor",
    _backward,
    _backward_fake,
)
register_gradient("mask_patch_embed", _gradients, _save_tiles)
register_gradient("mask_patch_embed_backward", _second_gradient, _save_tiles_again)
