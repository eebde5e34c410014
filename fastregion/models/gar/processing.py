"""From a picture and masks to GAR's tiles, ids and boxes, equal to the published preprocessing.

A picture is resized twice without keeping its aspect: to one tile (the thumbnail, which comes
first) and to a grid of tiles, chosen so that the picture gets as large as it can. Pictures are
resized bicubically with antialiasing in float32 and rounded to uint8 again, masks by nearest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fastregion import ops
from fastregion.images import RgbImage
from fastregion.models.checkpoint import read_json
from fastregion.regions import Region

__all__ = ["ProcessorConfig", "choose_grid", "cut_tiles", "normalise", "region_box", "region_ids"]

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
_BICUBIC = 3  # PIL's number


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    """What of ``preprocessor_config.json`` shapes the tiles.

    Attributes:
        tile_size: side of a tile in pixels.
        max_num_tiles: largest grid, the thumbnail not counted (16 for GAR-1B's training).
    """

    tile_size: int
    max_num_tiles: int

    def __post_init__(self) -> None:
        for name in ("tile_size", "max_num_tiles"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: must be an integer of at least 1, got {value!r}")

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> ProcessorConfig:
        """Read ``preprocessor_config.json``, or the image part of ``processor_config.json``.

        Raises:
            FileNotFoundError: there is neither.
            ValueError: a key is missing, or asks for something that the published code does not do;
                the message names file and key.
        """
        for name in (PREPROCESSOR, PROCESSOR):
            file = Path(folder) / name
            if not file.is_file():
                continue
            values: Any = read_json(folder, name)
            if name == PROCESSOR:
                values = values.get("image_processor")
            if not isinstance(values, dict):
                raise ValueError(f"model: {str(file)!r} must hold the image processor's settings")
            return cls._from_dict(values, str(file))
        raise FileNotFoundError(f"model: {os.fspath(folder)!r} has no {PREPROCESSOR}")

    @classmethod
    def _from_dict(cls, values: Mapping[str, Any], file: str) -> ProcessorConfig:
        for key in ("tile_size", "max_num_tiles"):
            if key not in values:
                raise ValueError(f"model: {file!r} has no key {key!r}")
        expected = {
            "vision_input_type": "thumb+tile",
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": _BICUBIC,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
        }
        for key, value in expected.items():
            if values.get(key) not in (None, value):
                raise ValueError(f"model: {file!r}: {key} must be {value!r}, got {values[key]!r}")
        factor = values.get("rescale_factor")
        is_number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
        if factor is not None and not (is_number and math.isclose(factor, 1 / 255, rel_tol=1e-6)):
            raise ValueError(f"model: {file!r}: rescale_factor must be 1/255, got {factor!r}")
        try:
            return cls(tile_size=values["tile_size"], max_num_tiles=values["max_num_tiles"])
        except ValueError as error:
            raise ValueError(f"model: {file!r}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The published keys."""
        return {
            "image_processor_type": "PerceptionLMImageProcessorFast",
            "vision_input_type": "thumb+tile",
            "tile_size": self.tile_size,
            "max_num_tiles": self.max_num_tiles,
            "resample": _BICUBIC,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "rescale_factor": 1 / 255,
        }


def _ratio_groups(max_num_tiles: int) -> dict[float, list[tuple[int, int]]]:
    """Grids (columns, rows) by their ratio, both in the order in which they are looked at."""
    groups: dict[float, list[tuple[int, int]]] = {}
    for count in range(max_num_tiles, 0, -1):
        for columns in range(1, count + 1):
            if count % columns == 0:
                rows = count // columns
                groups.setdefault(columns / rows, []).append((columns, rows))
    return groups


def choose_grid(width: int, height: int, tile_size: int, max_num_tiles: int) -> tuple[int, int]:
    """(columns, rows) of the tiles that a picture is resized to.

    Among the canvases that hold the whole picture, the one in which it can be scaled up most; where
    none does, the one whose ratio is closest to the picture's, as large as it comes.
    """
    ratio = width / height
    groups = _ratio_groups(max_num_tiles)
    best, best_side = None, -math.inf
    for columns, rows in (grid for group in groups.values() for grid in group):
        canvas = columns * tile_size, rows * tile_size
        if canvas[0] < width or canvas[1] < height:
            continue
        scale = min(canvas[0] / width, canvas[1] / height)
        # One side is rounded down, the other is not; the shorter one is compared.
        if ratio > 1:
            side = float(math.floor(scale * width / ratio))
        elif ratio < 1:
            side = float(math.floor(scale * height * ratio))
        else:
            side = scale * height
        if side >= best_side:
            best, best_side = (columns, rows), side
    if best is not None:
        return best
    if ratio >= 1:
        closest = max(value for value in groups if value <= ratio)
        return max(groups[closest], key=lambda grid: grid[0])
    closest = min(
        (value for value in groups if value > ratio), key=lambda value: abs(1 / value - 1 / ratio)
    )
    return max(groups[closest], key=lambda grid: grid[1])


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    """``[3, H, W]`` uint8 to ``[3, height, width]`` uint8, bicubic with antialiasing."""
    resized = F.interpolate(
        image[None].float(),
        size=(height, width),
        mode="bicubic",
        align_corners=False,
        antialias=True,
    )
    return resized[0].clamp_(0, 255).round_().to(torch.uint8)


def cut_tiles(image: RgbImage, tile_size: int, grid: tuple[int, int] | None) -> Tensor:
    """Tiles ``[1 + columns * rows, 3, s, s]`` uint8 of a picture ``[H, W, 3]``, thumbnail first.

    Args:
        image: uint8 RGB.
        tile_size: s in pixels.
        grid: (columns, rows); None for the thumbnail alone (frames of a video).
    """
    picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    thumbnail = _resize(picture, tile_size, tile_size)[None]
    if grid is None:
        return thumbnail
    columns, rows = grid
    canvas = _resize(picture, rows * tile_size, columns * tile_size)
    tiles = canvas.view(3, rows, tile_size, columns, tile_size).permute(1, 3, 0, 2, 4)
    return torch.cat((thumbnail, tiles.reshape(-1, 3, tile_size, tile_size)))


def cut_masks(
    masks: npt.NDArray[np.bool_] | ops.BitMasks, tile_size: int, grid: tuple[int, int] | None
) -> ops.BitMasks:
    """Tiles ``[M, T, s, s]`` of masks ``[M, H, W]``, as :func:`cut_tiles` cuts their picture."""
    columns, rows = grid or (1, 1)
    given = masks if isinstance(masks, ops.BitMasks) else torch.from_numpy(masks)
    return ops.mask_tiles(given, (rows, columns), tile_size, thumbnail=grid is not None)


def normalise(tiles: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1."""
    return (tiles.float() - 127.5) / 127.5


def region_ids(
    masks: Sequence[npt.NDArray[np.bool_]], ids: Sequence[int], outside: int
) -> npt.NDArray[np.uint8]:
    """Picture ``[H, W]`` of the region at each pixel: the first that covers it, else ``outside``.

    This is what the published code hands to the model, which reads only where it is not
    ``outside``: the union of the masks, which is all that a batch is made of here.

    Args:
        masks: ``[H, W]`` bool, at least one.
        ids: the number of each, below 256.
        outside: the number where there is no region.
    """
    picture = np.full(masks[0].shape, outside, np.uint8)
    for mask, number in zip(reversed(masks), reversed(ids), strict=True):
        picture[mask] = number
    return picture


def region_box(region: Region) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) as shares of the picture, up to the last covered pixel (no + 1)."""
    bits, width = region.pixels()
    height = len(bits)
    x0, y0, x1, y1 = region.box
    return x0 / width, y0 / height, (x1 - 1) / width, (y1 - 1) / height
