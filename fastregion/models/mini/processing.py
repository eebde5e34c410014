"""From an image and masks to mini's tiles and replay boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fastregion.models.mini.config import MiniConfig
from fastregion.scenes.facts import finest_period

Rgb = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

OUTSIDE = 127  # gray of the detail tile beyond the image: zero after normalisation


@dataclass(frozen=True, kw_only=True)
class RegionTiles:
    """The pixels mini looks at: B prompts with R regions in all.

    ``thumbnails [B, s, s, 3]`` uint8 and ``thumbnail_masks [B, s, s]`` bool (union of the prompt's
    regions); ``details [R, d, d, 3]`` uint8 and ``detail_masks [R, d, d]`` bool, ``textures [R, t,
    t, 3]`` and ``texture_masks [R, t, t]`` likewise; ``detail_boxes [R, 4]`` and ``thumbnail_boxes
    [R, 4]`` float32 (x1, y1, x2, y2) in cells of their feature maps; ``geometry [R, 11]`` float32:
    centroid, box, area, and contact with the image's four edges.
    """

    thumbnails: Tensor
    thumbnail_masks: Tensor
    details: Tensor
    detail_masks: Tensor
    textures: Tensor
    texture_masks: Tensor
    detail_boxes: Tensor
    thumbnail_boxes: Tensor
    geometry: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[RegionTiles]) -> RegionTiles:
        """Joins the tiles of several prompts."""
        return cls(
            **{
                item.name: torch.cat([getattr(part, item.name) for part in parts])
                for item in fields(cls)
            }
        )

    def to(self, device: torch.device) -> RegionTiles:
        """Moves every tensor."""
        return RegionTiles(
            **{item.name: getattr(self, item.name).to(device) for item in fields(self)}
        )


class TileCutter:
    """Cuts the tiles of one image; what all its prompts share is made once.

    Args:
        image: ``[H, W, 3]`` uint8.
        config: Sizes and margins.
    """

    def __init__(self, image: Rgb, config: MiniConfig) -> None:
        self._config = config
        self._picture = Image.fromarray(image)
        size = (config.thumbnail_size,) * 2
        self._thumbnail = np.array(self._picture.resize(size, Image.Resampling.BILINEAR))

    def cut(self, masks: Sequence[Mask]) -> RegionTiles:
        """Tiles of a prompt about regions, given as ``[H, W]`` bool masks, none of them empty."""
        config = self._config
        details, detail_masks, detail_boxes, thumbnail_boxes, geometry = [], [], [], [], []
        textures, texture_masks = [], []
        for mask in masks:
            box = _bounds(mask)
            window = _window(box, config)
            details.append(_cut(self._picture, window, config.detail_size))
            detail_masks.append(_cut_mask(mask, window, config.detail_size))
            inside = _texture_window(mask, box, config)
            textures.append(_cut(self._picture, inside, config.texture_size))
            texture_masks.append(_cut_mask(mask, inside, config.texture_size))
            detail_boxes.append(_replay_box(box, window, config))
            thumbnail_boxes.append(_thumbnail_box(box, mask.shape, config))
            geometry.append(_geometry(mask, box))
        union = _shrink(np.logical_or.reduce(masks), config.thumbnail_size)
        return RegionTiles(
            thumbnails=torch.from_numpy(self._thumbnail)[None],
            thumbnail_masks=torch.from_numpy(union)[None],
            details=torch.from_numpy(np.stack(details)),
            detail_masks=torch.from_numpy(np.stack(detail_masks)),
            textures=torch.from_numpy(np.stack(textures)),
            texture_masks=torch.from_numpy(np.stack(texture_masks)),
            detail_boxes=torch.tensor(detail_boxes, dtype=torch.float32),
            thumbnail_boxes=torch.tensor(thumbnail_boxes, dtype=torch.float32),
            geometry=torch.tensor(geometry, dtype=torch.float32),
        )


def _bounds(mask: Mask) -> tuple[int, int, int, int]:
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def _window(box: tuple[int, int, int, int], config: MiniConfig) -> tuple[int, int, int]:
    """Left, top and side of the square that the detail tile shows; it may leave the image."""
    x0, y0, x1, y1 = box
    side = max(round(config.detail_margin * max(x1 - x0, y1 - y0)), config.min_detail)
    return (x0 + x1 - side) // 2, (y0 + y1 - side) // 2, side


def _texture_window(
    mask: Mask, box: tuple[int, int, int, int], config: MiniConfig
) -> tuple[int, int, int]:
    """The square that the texture tile shows: where the region is densest, near its middle.

    Its side is a number of the finest periods, or half of the longer side of a small region's box.
    """
    x0, y0, x1, y1 = box
    most = config.texture_periods * finest_period(*mask.shape)
    longer = max(x1 - x0, y1 - y0)
    side = round(min(most, max(longer / 2, config.min_detail)))
    # Pixels of the region in every square that begins inside the box, from running sums.
    sums = np.pad(mask[y0:y1, x0:x1].astype(np.int32), ((1, side), (1, side)), mode="constant")
    sums = sums.cumsum(axis=0).cumsum(axis=1)
    rows, columns = max(y1 - y0 - side, 0) + 1, max(x1 - x0 - side, 0) + 1
    counts = (
        sums[side : side + rows, side : side + columns]
        - sums[:rows, side : side + columns]
        - sums[side : side + rows, :columns]
        + sums[:rows, :columns]
    )
    ys, xs = np.nonzero(counts >= 0.98 * counts.max())
    nearest = np.argmin((ys - (rows - 1) / 2) ** 2 + (xs - (columns - 1) / 2) ** 2)
    # A box narrower than the square is centred in it.
    left = x0 + int(xs[nearest]) - max(side - (x1 - x0), 0) // 2
    top = y0 + int(ys[nearest]) - max(side - (y1 - y0), 0) // 2
    return left, top, side


def _cut(picture: Image.Image, window: tuple[int, int, int], size: int) -> Rgb:
    left, top, side = window
    inside = (
        max(left, 0),
        max(top, 0),
        min(left + side, picture.width),
        min(top + side, picture.height),
    )
    canvas = Image.new("RGB", (side, side), (OUTSIDE,) * 3)
    canvas.paste(picture.crop(inside), (inside[0] - left, inside[1] - top))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BILINEAR))


def _shrink(mask: Mask, size: int) -> Mask:
    """Nearest resize to a square, with source index floor(i * in / out)."""
    rows = np.arange(size) * mask.shape[0] // size
    columns = np.arange(size) * mask.shape[1] // size
    return mask[np.ix_(rows, columns)]


def _cut_mask(mask: Mask, window: tuple[int, int, int], size: int) -> Mask:
    left, top, side = window
    step = np.arange(size) * side // size
    rows, columns = top + step, left + step
    inside = ((rows >= 0) & (rows < mask.shape[0]))[:, None] & (
        (columns >= 0) & (columns < mask.shape[1])
    )
    found = mask[
        np.ix_(np.clip(rows, 0, mask.shape[0] - 1), np.clip(columns, 0, mask.shape[1] - 1))
    ]
    shown: Mask = found & inside
    return shown


def _replay_box(
    box: tuple[int, int, int, int], window: tuple[int, int, int], config: MiniConfig
) -> list[float]:
    """A square around the region in cells of the detail map: outlines keep their proportions."""
    x0, y0, x1, y1 = box
    left, top, side = window
    cells = config.detail_size / config.vision.stride / side
    half = config.replay_margin * max(x1 - x0, y1 - y0) / 2
    x, y = (x0 + x1) / 2 - left, (y0 + y1) / 2 - top
    return [(x - half) * cells, (y - half) * cells, (x + half) * cells, (y + half) * cells]


def _geometry(mask: Mask, box: tuple[int, int, int, int]) -> list[float]:
    """Centroid and box as shares of width and height, the area's binary logarithm over 8, contact.

    The location features of referring-expression models, with the centroid added, and with how much
    of the region lies on the left, top, right and bottom edge of the image (0..1): the square root
    of the touching pixels over the square root of the area, so that a slight contact shows.
    """
    height, width = mask.shape
    rows, columns = mask.sum(axis=1), mask.sum(axis=0)
    area = float(rows.sum())
    x = float(columns @ (np.arange(width) + 0.5)) / area / width
    y = float(rows @ (np.arange(height) + 0.5)) / area / height
    x0, y0, x1, y1 = box
    share = float(np.log2(area / mask.size)) / 8
    touching = (mask[:, 0].sum(), mask[0].sum(), mask[:, -1].sum(), mask[-1].sum())
    contact = [float(min(pixels / area**0.5, 1.0)) ** 0.5 for pixels in touching]
    return [x, y, x0 / width, y0 / height, x1 / width, y1 / height, share, *contact]


def _thumbnail_box(
    box: tuple[int, int, int, int], shape: tuple[int, ...], config: MiniConfig
) -> list[float]:
    cells = config.thumbnail_size / config.vision.stride
    height, width = shape
    x, y = cells / width, cells / height
    return [box[0] * x, box[1] * y, box[2] * x, box[3] * y]
