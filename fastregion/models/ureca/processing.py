"""From a picture and masks to URECA's tiles, equal to the published preprocessing to the byte.

A picture is resized to a grid of tiles, without keeping its aspect, and cut; behind the tiles comes
a thumbnail, the whole picture as one tile, where there is more than one. A mask is cut by the same
grid, by nearest neighbour, with the values 0 and 255; its thumbnail is bicubic, and wraps modulo
256 where that over- or undershoots, as the released weights were trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastregion import ops
from fastregion.images import RgbImage, resize_image
from fastregion.models.ureca.config import MaskThumbnail
from fastregion.regions import Region

__all__ = ["Tiling", "candidate_grids", "choose_grid", "cut_mask", "cut_tiles", "normalise"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_BICUBIC = Image.Resampling.BICUBIC
_RULES = {"released": "bicubic_wrapped", "clean": "bicubic"}


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How pictures and masks are cut.

    Attributes:
        size: S, pixels a side of a tile.
        min_num: fewest tiles.
        max_num: most tiles, the thumbnail not counted.
        use_thumbnail: whether the whole picture follows its tiles.
        dynamic: whether pictures are cut at all, or become one tile.
        dynamic_mask: whether masks are; if not, a mask is one tile with the values 0 and 1.
        mask_thumbnail: ``"released"`` (wraps modulo 256) or ``"clean"``.
    """

    size: int
    min_num: int
    max_num: int
    use_thumbnail: bool
    dynamic: bool
    dynamic_mask: bool
    mask_thumbnail: MaskThumbnail

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(columns, rows) of the tiles of a picture of this size."""
        return choose_grid(width, height, self.size, self.min_num, self.max_num)

    def image(self, image: RgbImage) -> Tensor:
        """Tiles of a picture, uint8 ``[T, 3, S, S]``."""
        grid = self.grid(*image.shape[:2]) if self.dynamic else (1, 1)
        return cut_tiles(image, grid, self.size, thumbnail=self.use_thumbnail)

    def mask(self, region: Region) -> Tensor:
        """Tiles of a mask, uint8 ``[T, S, S]``."""
        bits, width = region.pixels()
        # A copy: torch warns of arrays that are read-only.
        mask = ops.BitMasks(torch.from_numpy(bits.view(np.int64).copy()), width)
        if not self.dynamic_mask:
            whole = ops.mask_tiles(mask, (1, 1), self.size, thumbnail=False, rule="opencv")
            return whole.unpack().view(torch.uint8)
        return cut_mask(
            mask,
            self.grid(len(bits), width),
            self.size,
            thumbnail=self.mask_thumbnail if self.use_thumbnail else None,
        )


def candidate_grids(min_num: int, max_num: int) -> list[tuple[int, int]]:
    """Grids (columns, rows) of ``min_num`` to ``max_num`` tiles, in the published order.

    By number of tiles; those of one number as a set of the pairs, filled number by number, yields
    them. With one tile as the smallest number that order has no effect.
    """

    def pairs() -> Iterator[tuple[int, int]]:
        for largest in range(min_num, max_num + 1):
            for columns in range(1, largest + 1):
                for rows in range(1, largest + 1):
                    if min_num <= columns * rows <= max_num:
                        yield columns, rows

    return sorted(set(pairs()), key=lambda grid: grid[0] * grid[1])


def choose_grid(
    width: int, height: int, tile_size: int, min_num: int, max_num: int
) -> tuple[int, int]:
    """(columns, rows) whose ratio is closest to the picture's.

    Of several as close, a later one is taken only where the picture has more than half of its
    pixels.
    """
    ratio, area = width / height, width * height
    best, best_difference = (1, 1), float("inf")
    for columns, rows in candidate_grids(min_num, max_num):
        difference = abs(ratio - columns / rows)
        if difference < best_difference:
            best, best_difference = (columns, rows), difference
        elif difference == best_difference and area > 0.5 * tile_size**2 * columns * rows:
            best = (columns, rows)
    return best


def cut_tiles(
    image: RgbImage, grid: tuple[int, int], tile_size: int, *, thumbnail: bool = True
) -> Tensor:
    """Tiles of a picture ``[H, W, 3]``.

    Args:
        image: uint8 RGB.
        grid: (columns, rows).
        tile_size: S in pixels.
        thumbnail: the whole picture follows where there are several tiles.

    Returns:
        uint8 ``[T, 3, S, S]``, row by row, the thumbnail last.
    """
    columns, rows = grid
    canvas = resize_image(image, (rows * tile_size, columns * tile_size), _BICUBIC)
    cells = torch.from_numpy(canvas).view(rows, tile_size, columns, tile_size, 3)
    tiles = cells.permute(0, 2, 4, 1, 3).reshape(-1, 3, tile_size, tile_size)
    if not thumbnail or len(tiles) == 1:
        return tiles
    small = torch.from_numpy(resize_image(image, (tile_size, tile_size), _BICUBIC)).permute(2, 0, 1)
    return torch.cat((tiles, small[None]))


def cut_mask(
    mask: ops.BitMasks,
    grid: tuple[int, int],
    tile_size: int,
    *,
    thumbnail: MaskThumbnail | None = "released",
) -> Tensor:
    """Tiles of a mask ``[H, W]``, as :func:`cut_tiles` cuts its picture.

    Args:
        mask: bit-packed.
        grid: (columns, rows).
        tile_size: S in pixels.
        thumbnail: how the whole mask is made to one tile; None leaves it out.

    Returns:
        uint8 ``[T, S, S]``, 0 outside and 255 inside; the thumbnail is grey.
    """
    columns, rows = grid
    tiles = ops.mask_tiles(mask, (rows, columns), tile_size, thumbnail=False, rule="centre")
    grey = tiles.unpack().view(torch.uint8) * 255
    if thumbnail is None or len(grey) == 1:
        return grey
    return torch.cat((grey, ops.mask_resize(mask, tile_size, _RULES[thumbnail])[None]))


def normalise(tiles: Tensor) -> Tensor:
    """uint8 ``[T, 3, S, S]`` to float32 with ImageNet's mean and deviation."""
    mean, std = (tiles.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (_MEAN, _STD))
    return (tiles.float() / 255 - mean) / std
