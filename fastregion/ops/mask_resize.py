"""Binary masks resized to grey, to the byte as the published preprocessings do.

    columns first:  row[y, j] = sum over x of 255 * mask[y, x] * weight(j, x)
    then rows:      out[i, j] = sum over y of row[y, j] * weight(i, y)

with Pillow's bicubic weights (a = -0.5, stretched when shrinking, so antialiased). Two rules:

* ``"bicubic"`` (DAM): Pillow's resize of an 8-bit picture. Weights are integers with 22 bits behind
  the point; after each of the two passes the sum is rounded and clamped to 0..255.
* ``"bicubic_wrapped"`` (the thumbnail of URECA as released): Pillow's resize of a float32 picture,
  which over- and undershoots, cast to uint8 by cutting the fraction off and wrapping modulo 256:
  257.1 gives 1, -2.2 gives 254. The clean thumbnail is ``"bicubic"``.

Pillow's order of the two passes depends on its version and on the sizes; here columns come first,
always, as in the version the published systems used.

Shapes: masks ``[..., H, W]`` to ``[..., h, w]`` uint8. Dtypes: bool or uint8 (any value but 0 is
inside), or ``BitMasks``. Exact; not differentiable. Devices: any (reference); see
``fastregion.ops.OPERATORS`` for kernels. In a CUDA graph: once the same sizes and rule have been
run outside of it, as the first run makes tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.bit_masks import BitMasks, unpack_bits_reference
from fastregion.ops.checks import size_pair
from fastregion.ops.native import family, run
from fastregion.ops.registration import register
from fastregion.ops.resample import PRECISION_BITS, bicubic_table

RULES = ("bicubic", "bicubic_wrapped")


def _pass(pixels: Tensor, size: int, fixed_point: bool) -> Tensor:
    """Resize the last dimension: int64 to int64 in 0..255, or float64 to float32 values."""
    window, weights = bicubic_table(pixels.shape[-1], size, fixed_point, pixels.device)
    total = pixels.new_zeros((*pixels.shape[:-1], size))
    for tap in range(weights.shape[1]):  # in the order of Pillow's sum
        index = (window[:, 0] + tap).clamp(max=pixels.shape[-1] - 1).long()
        total += pixels.index_select(-1, index) * weights[:, tap].to(pixels.dtype)
    if fixed_point:
        return ((total + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS).clamp(0, 255)
    return total.float().double()


def mask_resize_reference(words: Tensor, width: int, size: Sequence[int], rule: str) -> Tensor:
    """The definition, in plain torch: words ``[M, H, .]`` to grey ``[M, h, w]``."""
    fixed_point = rule == "bicubic"
    masks = unpack_bits_reference(words, width)
    pixels = 255 * masks.to(torch.int64 if fixed_point else torch.float64)
    rows = _pass(pixels, size[1], fixed_point)
    grey = _pass(rows.transpose(1, 2), size[0], fixed_point).transpose(1, 2)
    return (grey.trunc().long() & 255).to(torch.uint8).contiguous()


def mask_resize(
    masks: Tensor | BitMasks,
    size: int | Sequence[int],
    rule: str = "bicubic",
    *,
    backend: str | None = None,
) -> Tensor:
    """Resize binary masks to grey pictures by a published rule.

    Args:
        masks: ``[..., H, W]``: bool, uint8, or already bit-packed.
        size: (height, width) of the result, or one number for both.
        rule: ``"bicubic"`` (rounded, clamped) or ``"bicubic_wrapped"`` (cut, modulo 256).
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``[..., h, w]`` uint8; 255 is inside, 0 outside, other values lie on the outline.

    Raises:
        TypeError: Masks that are not bool, uint8 or ``BitMasks``.
        ValueError: Wrong rank, masks without a pixel, a size below 1, or an unknown rule.
    """
    name = "mask_resize"
    if not isinstance(masks, BitMasks):
        masks = BitMasks.pack(masks, backend=backend)
    if 0 in masks.shape[-2:]:
        raise ValueError(f"{name}: masks must have at least one pixel, got shape {masks.shape}")
    height, width = size_pair(name, "size", size)
    if rule not in RULES:
        raise ValueError(f"{name}: rule must be bicubic or bicubic_wrapped, got {rule!r}")
    leading = masks.shape[:-2]
    words = masks.words.reshape(-1, *masks.words.shape[-2:])
    grey: Tensor = torch.ops.fastregion.mask_resize(
        words, masks.width, [height, width], rule, backend or ""
    )
    return grey.reshape(*leading, height, width)


def _forward(words: Tensor, width: int, size: list[int], rule: str, backend: str) -> Tensor:
    chosen = choose_backend("mask_resize", words.device, force=backend)
    if chosen == "reference":
        return mask_resize_reference(words, width, size, rule)
    out = _fake(words, width, size, rule, backend)
    words = words.contiguous()
    fixed_point = rule == "bicubic"
    row_window, row_weights = bicubic_table(words.shape[1], size[0], fixed_point, words.device)
    column_window, column_weights = bicubic_table(width, size[1], fixed_point, words.device)
    params = family("masks").MaskResizeParams(
        fixed_point,
        words.data_ptr(),
        out.data_ptr(),
        words.shape[0],
        words.shape[1],
        width,
        *size,
        row_window.data_ptr(),
        row_weights.data_ptr(),
        row_weights.shape[1],
        column_window.data_ptr(),
        column_weights.data_ptr(),
        column_weights.shape[1],
    )
    workspace = out.new_empty(run(chosen, "masks.mask_resize_workspace", words.device, params))
    run(chosen, "masks.mask_resize", words.device, params, workspace.data_ptr())
    return out


def _fake(words: Tensor, width: int, size: list[int], rule: str, backend: str) -> Tensor:
    return words.new_empty((words.shape[0], *size), dtype=torch.uint8)


register(
    "mask_resize(Tensor words, SymInt width, int[] size, str rule, str backend) -> Tensor",
    _forward,
    _fake,
)
