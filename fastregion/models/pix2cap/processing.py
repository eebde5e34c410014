"""From pictures to Pix2Cap's batch of pixels, equal to the published preprocessing.

A picture is resized so that its shorter side is 800 pixels and its longer one at most 1333,
normalised per channel from 0..255 (without a division by 255) and padded at the right and at the
bottom with zeros to a multiple of 32. No part of the model is told what is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fastregion.images import RgbImage, resize_image
from fastregion.regions import Region

__all__ = ["Pix2CapBatch", "inference_size", "normalise", "pad_batch", "resize"]

_SHORT_SIDE, _LONG_SIDE = 800, 1333


@dataclass(frozen=True, kw_only=True)
class Pix2CapBatch:
    """What ``Pix2CapCaptioner.encode`` takes.

    Attributes:
        image: uint8 RGB ``[H, W, 3]``.
        regions: what is captioned.
        kept: the image's predictions, once they have been made.
    """

    image: RgbImage
    regions: tuple[Region, ...]
    kept: dict[Any, Any]


def inference_size(size: tuple[int, int]) -> tuple[int, int]:
    """What a picture of this (height, width) is resized to before it is segmented."""
    scale = _SHORT_SIDE / min(size)
    sides = [float(_SHORT_SIDE) if side == min(size) else scale * side for side in size]
    if max(sides) > _LONG_SIDE:
        shrink = _LONG_SIDE / max(sides)
        sides = [side * shrink for side in sides]
    height, width = (max(int(side + 0.5), 1) for side in sides)
    return height, width


def resize(image: RgbImage, size: tuple[int, int]) -> RgbImage:
    """Resize ``[H, W, 3]`` to (height, width) by Pillow's bilinear rule."""
    return resize_image(image, size, Image.Resampling.BILINEAR)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 ``[3, H, W]`` to float32, ``(pixels - mean) / std`` per channel."""
    shape = (-1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(shape)
    spread = torch.tensor(std, dtype=torch.float32, device=pixels.device).view(shape)
    return (pixels - centre) / spread


def pad_batch(images: Sequence[Tensor], divisor: int = 32) -> Tensor:
    """Stack images of several sizes, with zeros at the right and at the bottom.

    Args:
        images: at least one, float32 ``[3, H_b, W_b]``, normalised.
        divisor: of the common height and width.

    Returns:
        ``[B, 3, H, W]``, H and W the largest of the batch rounded up.
    """
    height, width = (
        -(-max(image.shape[axis] for image in images) // divisor) * divisor for axis in (1, 2)
    )
    padded = [
        F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images
    ]
    return torch.stack(padded)
