"""From a picture and a mask to DAM's two views, equal to the published preprocessing to the pixel.

A frame becomes 8 channels: picture (3) and mask (1) of the whole frame, and the same of the focal
crop. Both views are resized to a square without keeping their aspect, bicubically and with
antialiasing, the mask like a picture: its outline is grey.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastregion import ops
from fastregion.images import RgbImage, resize_image
from fastregion.models.checkpoint import read_json
from fastregion.regions import Region

__all__ = [
    "PREPROCESSOR",
    "check_preprocessor",
    "focal_crop",
    "full_view",
    "normalise",
    "preprocessor_values",
    "sample_frames",
    "views",
]

PREPROCESSOR = "preprocessor_config.json"
_BICUBIC = 3  # PIL's number
_MINIMUM = 48  # pixels a side of a box, before it grows threefold
_LEVELS = ((np.arange(256) * (1 / 255)).astype(np.float32) - np.float32(0.5)) / np.float32(0.5)


def focal_crop(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The focal crop around a region, (left, top, right, bottom), half-open.

    The box, at least 48 pixels a side, grows to three times its width and height around its centre
    and is clipped to the picture, so that it may lose its centre and its aspect.

    Args:
        box: (x0, y0, x1, y1) of the region, half-open.
        size: height and width of the picture.
    """
    height, width = size
    left, right = _grown(box[0], box[2], width)
    top, bottom = _grown(box[1], box[3], height)
    return left, top, right, bottom


def _grown(first: int, end: int, limit: int) -> tuple[int, int]:
    """One side of the crop."""
    extent = max(end - first, _MINIMUM)
    start = int(first + (end - first) / 2 - extent / 2)  # toward zero, as released: not floor
    return max(start - extent, 0), min(start + 2 * extent, limit)


def _resized(picture: RgbImage, size: int) -> Tensor:
    """``[H, W, 3]`` to ``[3, S, S]`` uint8 by Pillow's bicubic."""
    square = resize_image(picture, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(square).permute(2, 0, 1)


def full_view(image: RgbImage, size: int) -> Tensor:
    """The whole picture, uint8 ``[3, S, S]``: the same for all of its regions."""
    return _resized(image, size)


def views(image: RgbImage, region: Region, size: int, full: Tensor | None = None) -> Tensor:
    """Both views of a frame, uint8 ``[8, S, S]``.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        region: the region, with at least one pixel.
        size: S in pixels.
        full: what :func:`full_view` made of the picture, if it is at hand.

    Returns:
        Channels 0-2 are the whole picture and 3 its mask, 4-6 the focal crop and 7 its mask; a mask
        is 255 inside, 0 outside.
    """
    mask = region.mask
    left, top, right, bottom = focal_crop(region.box, mask.shape)
    cut = slice(top, bottom), slice(left, right)
    if full is None:
        full = full_view(image, size)
    if (bottom - top, right - left) == mask.shape:
        whole = torch.cat((full, _resized_mask(mask, size)))
        return torch.cat((whole, whole))
    return torch.cat(
        (
            full,
            _resized_mask(mask, size),
            _resized(image[cut], size),
            _resized_mask(mask[cut], size),
        )
    )


def _resized_mask(mask: np.ndarray, size: int) -> Tensor:
    packed = torch.from_numpy(np.ascontiguousarray(mask))
    return ops.mask_resize(packed[None], size)


def normalise(levels: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1, rounded as the published preprocessing rounds."""
    return torch.from_numpy(_LEVELS).to(levels.device)[levels.long()]


def sample_frames(count: int, wanted: int) -> list[int]:
    """Which of ``count`` frames are looked at: evenly spread, the first and the last among them.

    A video of fewer frames than ``wanted`` has some looked at several times.
    """
    return [int(place) for place in np.linspace(0, count - 1, wanted)]


def preprocessor_values(size: int) -> dict[str, Any]:
    """The published ``preprocessor_config.json``."""
    return {
        "image_processor_type": "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": _BICUBIC,
        "rescale_factor": 1 / 255,
        "size": {"height": size, "width": size},
    }


def check_preprocessor(folder: str | os.PathLike[str], size: int) -> None:
    """Check that a folder's ``preprocessor_config.json`` asks for what is done here.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or asks for something else; the message names file and key.
    """
    file, values = Path(folder, PREPROCESSOR), read_json(folder, PREPROCESSOR)
    for key, expected in preprocessor_values(size).items():
        value = values.get(key)
        if value is None or value == expected or key == "image_processor_type":
            continue
        if key == "rescale_factor" and isinstance(value, float) and math.isclose(value, expected):
            continue
        raise ValueError(f"model: {str(file)!r}: {key} must be {expected!r}, got {value!r}")
