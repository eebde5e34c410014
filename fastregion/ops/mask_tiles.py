"""Binary masks cut into the tiles of an image, without leaving the bit domain.

    canvas(i, j) = mask(source(i, H, rows * th), source(j, W, columns * tw))           (nearest)
    tile (r, c) of the grid = canvas[r * th : (r + 1) * th, c * tw : (c + 1) * tw]

Three published rules say which pixel is nearest: ``"floor"`` (GAR), ``floor(i * H / (rows * th))``
as torch's nearest; ``"centre"`` (URECA), the pixel under the centre of the canvas pixel,
``floor((i + 0.5) * H / (rows * th))`` as Pillow's nearest; and ``"opencv"`` (URECA's masks that are
not tiled), ``floor(i * H / (rows * th))`` as OpenCV's; each with the rounding of its library.

Shapes: masks ``[H, W]`` or ``[M, H, W]``; the result is ``[T, th, tw]`` or ``[M, T, th, tw]``,
bit-packed, with ``T = rows * columns``, row-major, plus one with a thumbnail. The thumbnail is the
whole mask resized to one tile by the same rule, and comes first (GAR's order). URECA's comes last
and is grey: that is ``mask_resize``.

Dtypes: bool or uint8 (any value but 0 is inside), or ``BitMasks``. Exact; not differentiable.
Devices: any (reference); see ``fastregion.ops.OPERATORS`` for kernels. In a CUDA graph: once the
same sizes, grid and rule have been run outside of it, as the first run makes tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.bit_masks import (
    BitMasks,
    pack_bits_reference,
    row_words,
    unpack_bits_reference,
)
from fastregion.ops.checks import positive_pair, size_pair
from fastregion.ops.native import family, run
from fastregion.ops.registration import register
from fastregion.ops.resample import NEAREST_RULES, nearest_table


def _resized_tiles(masks: Tensor, grid: Sequence[int], tile: Sequence[int], rule: str) -> Tensor:
    """Nearest resize of bool masks ``[M, H, W]`` to the canvas of ``grid``, cut into tiles."""
    (rows, columns), (height, width) = grid, tile
    y = nearest_table(masks.shape[1], (rows * height,), rule, masks.device)
    x = nearest_table(masks.shape[2], (columns * width,), rule, masks.device)
    canvas = masks.index_select(1, y).index_select(2, x)
    split = canvas.view(len(masks), rows, height, columns, width).transpose(2, 3)
    return split.reshape(len(masks), rows * columns, height, width)


def mask_tiles_reference(
    words: Tensor,
    width: int,
    grid: Sequence[int],
    tile_size: Sequence[int],
    thumbnail: bool,
    rule: str,
) -> Tensor:
    """The definition, in plain torch: words ``[M, H, .]`` to words ``[M, T, th, .]``."""
    masks = unpack_bits_reference(words, width)
    tiles = _resized_tiles(masks, grid, tile_size, rule)
    if thumbnail:
        tiles = torch.cat((_resized_tiles(masks, (1, 1), tile_size, rule), tiles), dim=1)
    return pack_bits_reference(tiles)


def mask_tiles(
    masks: Tensor | BitMasks,
    grid: Sequence[int],
    tile_size: int | Sequence[int],
    thumbnail: bool = True,
    *,
    rule: str = "floor",
    backend: str | None = None,
) -> BitMasks:
    """Resize binary masks to a grid of tiles by nearest neighbour and split them.

    Args:
        masks: ``[H, W]`` or ``[M, H, W]``: bool, uint8, or already bit-packed.
        grid: (rows, columns) of tiles.
        tile_size: (height, width) of a tile in pixels, or one number for both.
        thumbnail: Put the whole mask, resized to one tile, in front.
        rule: ``"floor"``, ``"centre"`` or ``"opencv"``, see the module.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        Bit-packed tiles ``[T, th, tw]`` or ``[M, T, th, tw]``.

    Raises:
        TypeError: Masks that are not bool, uint8 or ``BitMasks``.
        ValueError: Wrong rank, masks without a pixel, sizes below 1, or an unknown rule.
    """
    name = "mask_tiles"
    if not isinstance(masks, BitMasks):
        masks = BitMasks.pack(masks, backend=backend)
    if len(masks.shape) not in (2, 3):
        raise ValueError(f"{name}: masks must be [H, W] or [M, H, W], got shape {masks.shape}")
    if 0 in masks.shape[-2:]:
        raise ValueError(f"{name}: masks must have at least one pixel, got shape {masks.shape}")
    rows, columns = positive_pair(name, "grid", grid)
    height, width = size_pair(name, "tile_size", tile_size)
    if rule not in NEAREST_RULES:
        raise ValueError(f"{name}: rule must be floor, centre or opencv, got {rule!r}")
    words = masks.words if masks.words.dim() == 3 else masks.words.unsqueeze(0)
    tiles: Tensor = torch.ops.fastregion.mask_tiles(
        words, masks.width, [rows, columns], [height, width], thumbnail, rule, backend or ""
    )
    return BitMasks(tiles if masks.words.dim() == 3 else tiles.squeeze(0), width)


def _forward(
    words: Tensor,
    width: int,
    grid: list[int],
    tile_size: list[int],
    thumbnail: bool,
    rule: str,
    backend: str,
) -> Tensor:
    chosen = choose_backend("mask_tiles", words.device, force=backend)
    if chosen == "reference":
        return mask_tiles_reference(words, width, grid, tile_size, thumbnail, rule)
    tiles = _fake(words, width, grid, tile_size, thumbnail, rule, backend)
    rows, columns = (  # source indices along an axis: of the thumbnail, if any, and of the canvas
        nearest_table(size, (tile, cells * tile)[not thumbnail :], rule, words.device)
        for size, cells, tile in zip((words.shape[1], width), grid, tile_size, strict=True)
    )
    words = words.contiguous()
    params = family("masks").MaskTilesParams(
        words.data_ptr(),
        tiles.data_ptr(),
        rows.data_ptr(),
        columns.data_ptr(),
        words.shape[0],
        words.shape[1],
        width,
        *grid,
        *tile_size,
        thumbnail,
    )
    run(chosen, "masks.mask_tiles", words.device, params)
    return tiles


def _fake(
    words: Tensor,
    width: int,
    grid: list[int],
    tile_size: list[int],
    thumbnail: bool,
    rule: str,
    backend: str,
) -> Tensor:
    num_tiles = grid[0] * grid[1] + thumbnail
    return words.new_empty((words.shape[0], num_tiles, tile_size[0], row_words(tile_size[1])))


register(
    "mask_tiles(Tensor words, SymInt width, int[] grid, int[] tile_size, bool thumbnail, "
    "str rule, str backend) -> Tensor",
    _forward,
    _fake,
)
