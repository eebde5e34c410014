"""RoI-Align read straight from tile-major tokens, channels last (GAR's feature replay).

    out[r, (i, j), c] = 1/4 * sum over the 2 x 2 sample points (y, x) of bin (i, j) of F(y, x, c)

Shapes: ``tiles [T, P, C]`` holds ``T = rows * columns`` tiles (row-major, no thumbnail) of ``P``
tokens each (row-major), ``boxes [R, 4]`` is (x1, y1, x2, y2) in cells of the merged map F
``[rows * tile_height, columns * tile_width, C]``, ``out`` is ``[R, oh * ow, C]``, bins row-major.
F is never built: cell (y, x) is token ``(y % th) * tw + x % tw`` of tile
``(y // th) * columns + x // tw``, and a box may lie across tile borders.

The result is that of RoI-Align on F with ``spatial_scale=1, sampling_ratio=2, aligned=True``:
sample points of bin i at ``start - 0.5 + (i + 0.25) * bin`` and ``(i + 0.75) * bin``; bilinear
between cell centres at integers; a point below -1 or beyond the map's height or width counts 0;
one between -1 and 0 uses cell 0, one past the last cell the last cell. Boxes need no minimum size
and may be empty or reversed.

Dtypes: ``tiles`` float32, float64, float16, bfloat16 (the output has the same); ``boxes`` any of
these. Numerics: weights and sums in float32 (float64 for float64), rounded once. Autocast: none,
the dtype given is the dtype computed with. Differentiable in ``tiles``, twice; not in ``boxes``.
Deterministic, except that the reference's gradient on a GPU follows torch's ``index_add_``.
Devices: any (reference); see ``fastregion.ops.OPERATORS`` for kernels. NaN and infinite boxes are
refused on the CPU; on other devices that would need a synchronisation, and their rows are zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.checks import (
    accumulation_dtype,
    check_floating,
    check_same_device,
    check_same_dtype,
    check_writable_rows,
    positive_pair,
    refuse_gradients,
    size_pair,
)
from fastregion.ops.native import DTYPE_CODES, as_rows, family, run, wrote_to
from fastregion.ops.registration import register, register_gradient


def _axis_taps(start: Tensor, end: Tensor, bins: int, cells: int) -> tuple[Tensor, Tensor]:
    """Cells read along one axis and their weights, both ``[R, bins, 4]`` (2 points x 2 cells)."""
    size = (end - start) / bins  # [R]
    first = torch.arange(bins, device=start.device, dtype=start.dtype) * size[:, None]
    within = size.new_tensor([0.25, 0.75]) * size[:, None]  # [R, 2]
    points = (start - 0.5)[:, None, None] + first[:, :, None] + within[:, None, :]  # [R, bins, 2]
    inside = (points >= -1) & (points <= cells)  # false for NaN
    points = torch.where(inside, points.clamp(0, cells - 1), 0)
    low = points.floor()
    fraction = points - low
    weights = torch.stack((1 - fraction, fraction), dim=-1) * (0.5 * inside).unsqueeze(-1)
    index = torch.stack((low, (low + 1).clamp(max=cells - 1)), dim=-1).long()
    return index.flatten(2), weights.flatten(2)


def _token_taps(
    boxes: Tensor, grid: Sequence[int], tile: Sequence[int], output_size: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """The 16 terms of every output row: flat token index and weight, each ``[R * oh * ow]``."""
    (rows, columns), (tile_height, tile_width) = grid, tile
    x1, y1, x2, y2 = boxes.unbind(1)
    y, y_weight = _axis_taps(y1, y2, output_size[0], rows * tile_height)
    x, x_weight = _axis_taps(x1, x2, output_size[1], columns * tile_width)
    # A flat token index is a sum of a row part and a column part, so the taps stay separable.
    row_part = (y // tile_height) * (
        columns * tile_height * tile_width
    ) + y % tile_height * tile_width
    column_part = (x // tile_width) * (tile_height * tile_width) + x % tile_width
    return [
        (
            (row_part[:, :, None, i] + column_part[:, None, :, j]).flatten(),
            (y_weight[:, :, None, i] * x_weight[:, None, :, j]).flatten(),
        )
        for i in range(4)
        for j in range(4)
    ]


def roi_replay_reference(
    tiles: Tensor,
    boxes: Tensor,
    grid: Sequence[int],
    tile_size: Sequence[int],
    output_size: Sequence[int],
) -> Tensor:
    """The definition, in plain torch; every backend is held to it (float64 stays float64)."""
    dtype = accumulation_dtype(tiles.dtype)
    num_rois, num_bins, channels = boxes.shape[0], output_size[0] * output_size[1], tiles.shape[2]
    tokens = tiles.flatten(0, 1)  # [T * P, C]
    out = tokens.new_zeros((num_rois * num_bins, channels), dtype=dtype)
    for index, weight in _token_taps(boxes.to(dtype), grid, tile_size, output_size):
        out += weight[:, None] * tokens.index_select(0, index)
    return out.view(num_rois, num_bins, channels).to(tiles.dtype)


def roi_replay_backward_reference(
    grad: Tensor,
    boxes: Tensor,
    grid: Sequence[int],
    tile_size: Sequence[int],
    output_size: Sequence[int],
) -> Tensor:
    """Transpose of ``roi_replay_reference``: gradient of the tiles ``[T, P, C]``."""
    dtype = accumulation_dtype(grad.dtype)
    num_tiles, num_tokens, channels = grid[0] * grid[1], tile_size[0] * tile_size[1], grad.shape[2]
    rows = grad.flatten(0, 1).to(dtype)  # [R * oh * ow, C]
    out = rows.new_zeros((num_tiles * num_tokens, channels))
    for index, weight in _token_taps(boxes.to(dtype), grid, tile_size, output_size):
        out.index_add_(0, index, weight[:, None] * rows)
    return out.view(num_tiles, num_tokens, channels).to(grad.dtype)


def roi_replay(
    tiles: Tensor,
    grid: Sequence[int],
    boxes: Tensor,
    output_size: int | Sequence[int],
    *,
    tile_size: int | Sequence[int] | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """RoI-Align of boxes on a grid of feature tiles, without merging the tiles.

    Args:
        tiles: ``[T, P, C]`` tokens of the tiles, row-major over the grid, thumbnail left out.
        grid: (rows, columns) of tiles; ``rows * columns == T``.
        boxes: ``[R, 4]`` as (x1, y1, x2, y2) in feature cells of the merged map: a box that
            covers the whole map is ``(0, 0, columns * tile_width, rows * tile_height)``.
        output_size: (height, width) of the result in bins, or one number for both.
        tile_size: (height, width) of one tile in tokens; square tiles when left out.
        out: Where to write the result, ``[R, oh * ow, C]`` in the dtype of ``tiles``; a slice of a
            larger buffer will do, such as a prompt's embeddings, as long as channels are
            contiguous. For inference: it takes no part in autograd.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``[R, oh * ow, C]`` in the dtype of ``tiles``, bins row-major; ``out`` where it was given.

    Raises:
        TypeError: ``tiles`` or ``boxes`` not of a floating dtype listed in the module, or ``out``
            not of the dtype of ``tiles``.
        ValueError: Wrong ranks, a grid or tile size that does not match ``tiles``, tensors on
            different devices, (on the CPU) boxes with NaN or infinity, or an ``out`` of another
            shape, with overlapping rows, or where gradients are asked for.
    """
    name = "roi_replay"
    if tiles.dim() != 3:
        raise ValueError(f"{name}: tiles must be [T, P, C], got shape {tuple(tiles.shape)}")
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{name}: boxes must be [R, 4] (x1, y1, x2, y2), got shape {tuple(boxes.shape)}"
        )
    check_floating(name, tiles=tiles, boxes=boxes)
    check_same_device(name, tiles=tiles, boxes=boxes)
    rows, columns = positive_pair(name, "grid", grid)
    num_tiles, num_tokens = tiles.shape[0], tiles.shape[1]
    if rows * columns != num_tiles:
        raise ValueError(
            f"{name}: grid {rows} x {columns} needs {rows * columns} tiles, got {num_tiles}; "
            "leave the thumbnail out"
        )
    if tile_size is None:
        tile_size = round(num_tokens**0.5)
    height, width = size_pair(name, "tile_size", tile_size)
    if height * width != num_tokens:
        raise ValueError(
            f"{name}: a tile of {height} x {width} has {height * width} tokens, got {num_tokens}"
            "; give tile_size=(height, width) for tiles that are not square"
        )
    oh, ow = size_pair(name, "output_size", output_size)
    settings = ([rows, columns], [height, width], [oh, ow], backend or "")
    if out is None:
        result: Tensor = torch.ops.fastregion.roi_replay(tiles, boxes, *settings)
        return result
    _check_out(out, tiles, (boxes.shape[0], oh * ow, tiles.shape[2]))
    torch.ops.fastregion.roi_replay_out(out, tiles, boxes, *settings)
    return out


def _check_out(out: Tensor, tiles: Tensor, shape: tuple[int, int, int]) -> None:
    name = "roi_replay"
    check_same_dtype(name, out=out, tiles=tiles)
    check_same_device(name, out=out, tiles=tiles)
    if out.shape != shape:
        raise ValueError(f"{name}: out must be {list(shape)}, got shape {tuple(out.shape)}")
    check_writable_rows(name, "out", out)
    refuse_gradients(name, what="out", instead="leave it out, or ", tiles=tiles, out=out)


def _forward(
    tiles: Tensor,
    boxes: Tensor,
    grid: list[int],
    tile_size: list[int],
    output_size: list[int],
    backend: str,
) -> Tensor:
    chosen = choose_backend("roi_replay", tiles.device, force=backend)
    if chosen == "reference":
        _refuse_non_finite(boxes)
        return roi_replay_reference(tiles, boxes, grid, tile_size, output_size)
    out = _forward_fake(tiles, boxes, grid, tile_size, output_size, backend)
    _run(chosen, "roi.roi_replay", tiles, out, boxes, grid, tile_size, output_size)
    return out


def _forward_out(
    out: Tensor,
    tiles: Tensor,
    boxes: Tensor,
    grid: list[int],
    tile_size: list[int],
    output_size: list[int],
    backend: str,
) -> None:
    chosen = choose_backend("roi_replay", tiles.device, force=backend)
    if chosen == "reference":
        out.copy_(_forward(tiles, boxes, grid, tile_size, output_size, backend))
        return
    _run(chosen, "roi.roi_replay", tiles, out, boxes, grid, tile_size, output_size)
    wrote_to(out)


def _backward(
    grad: Tensor,
    boxes: Tensor,
    grid: list[int],
    tile_size: list[int],
    output_size: list[int],
    backend: str,
) -> Tensor:
    chosen = choose_backend("roi_replay_backward", grad.device, force=backend)
    if chosen == "reference":
        return roi_replay_backward_reference(grad, boxes, grid, tile_size, output_size)
    out = _backward_fake(grad, boxes, grid, tile_size, output_size, backend)
    _run(chosen, "roi.roi_replay_backward", out, grad, boxes, grid, tile_size, output_size)
    return out


def _run(
    backend: str,
    kernel: str,
    tiles: Tensor,
    bins: Tensor,
    boxes: Tensor,
    grid: list[int],
    tile_size: list[int],
    output_size: list[int],
) -> None:
    """Call a native kernel with the contract of csrc/roi/roi_replay.h."""
    tokens, token_stride = as_rows(tiles)
    if bins.shape[2] > 1 and bins.stride(2) != 1:
        bins = bins.contiguous()  # a gradient; results always have contiguous channels
    boxes = boxes.to(accumulation_dtype(tiles.dtype)).contiguous()
    params = family("roi").RoiReplayParams(
        DTYPE_CODES[tiles.dtype],
        tokens.data_ptr(),
        bins.data_ptr(),
        boxes.data_ptr(),
        token_stride,
        bins.stride(0),
        bins.stride(1),
        boxes.shape[0],
        tiles.shape[2],
        *grid,
        *tile_size,
        *output_size,
    )
    run(backend, kernel, tiles.device, params)


def _refuse_non_finite(boxes: Tensor) -> None:
    if boxes.device.type != "cpu":
        return  # reading values back would synchronise
    finite = boxes.isfinite().all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0, 0])
        raise ValueError(
            f"roi_replay: boxes must be finite, got {boxes[row].tolist()} in row {row}"
        )


def _forward_fake(
    tiles: Tensor,
    boxes: Tensor,
    grid: list[int],
    tile_size: list[int],
    output_size: list[int],
    backend: str,
) -> Tensor:
    return tiles.new_empty((boxes.shape[0], output_size[0] * output_size[1], tiles.shape[2]))


def _backward_fake(
    grad: Tensor,
    boxes: Tensor,
    grid: list[int],
    tile_size: list[int],
    output_size: list[int],
    backend: str,
) -> Tensor:
    return grad.new_empty((grid[0] * grid[1], tile_size[0] * tile_size[1], grad.shape[2]))


def _forward_out_fake(
    out: Tensor,
    tiles: Tensor,
    boxes: Tensor,
    grid: list[int],
    tile_size: list[int],
    output_size: list[int],
    backend: str,
) -> None:
    return


def _save_boxes(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, boxes, *ctx.settings = inputs
    ctx.save_for_backward(boxes)


def _tiles_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (boxes,) = ctx.saved_tensors
    grad_tiles = torch.ops.fastregion.roi_replay_backward(grad, boxes, *ctx.settings)
    return grad_tiles, None, None, None, None, None


def _second_gradient(ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    # The operator is linear in the tiles: the gradient of its gradient is the forward again.
    (boxes,) = ctx.saved_tensors
    grad = torch.ops.fastregion.roi_replay(grad_grad, boxes, *ctx.settings)
    return grad, None, None, None, None, None


register(
    "roi_replay(Tensor tiles, Tensor boxes, int[] grid, int[] tile_size, int[] output_size, "
    "str backend) -> Tensor",
    _forward,
    _forward_fake,
)
register(
    "roi_replay_out(Tensor(a!) out, Tensor tiles, Tensor boxes, int[] grid, int[] tile_size, "
    "int[] output_size, str backend) -> ()",
    _forward_out,
    _forward_out_fake,
)
register(
    "roi_replay_backward(Tensor grad, Tensor boxes, int[] grid, int[] tile_size, "
    "int[] output_size, str backend) -> Tensor",
    _backward,
    _backward_fake,
)
register_gradient("roi_replay", _tiles_gradient, _save_boxes)
register_gradient("roi_replay_backward", _second_gradient, _save_boxes)
