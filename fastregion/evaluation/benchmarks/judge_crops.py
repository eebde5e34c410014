"""What an image judge of DLC-Bench and GAR-Bench is shown: a window around each mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastregion.evaluation.data_urls import data_url
from fastregion.images import RgbImage
from fastregion.regions import as_region

__all__ = ["crop_urls", "image_part", "judge_window", "text_part"]

_SMALLEST = 56  # pixels of a box's side, below which it is widened


def judge_window(mask: Any, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Three times the tight box of a mask, cut to the image.

    Args:
        mask: what ``as_region`` takes.
        size: (height, width) of the image in pixels.

    Returns:
        (row0, row1, column0, column1), the ends exclusive.

    Raises:
        TypeError, ValueError: as for ``as_region``, such as an empty mask or another size.
    """
    x0, y0, x1, y1 = as_region(mask, size).box
    row0, row1 = _span(y0, y1 - y0, size[0])
    column0, column1 = _span(x0, x1 - x0, size[1])
    return row0, row1, column0, column1


def _span(start: int, extent: int, limit: int) -> tuple[int, int]:
    wide = max(extent, _SMALLEST)
    begin = int(start + extent / 2 - wide / 2)  # towards zero, as published
    return max(begin - wide, 0), min(begin + 2 * wide, limit)


def crop_urls(image: RgbImage, mask: Any) -> tuple[str, str]:
    """The window of the image and that of the mask (white on black), as data URLs of PNGs.

    The published messages hold the same PNGs under the label ``image/jpeg``; here they bear their
    own.
    """
    height, width = image.shape[:2]
    region = as_region(mask, (height, width))
    row0, row1, column0, column1 = judge_window(region, (height, width))
    window = slice(row0, row1), slice(column0, column1)
    return data_url(image[window]), data_url(region.mask[window])


def text_part(text: str) -> Mapping[str, Any]:
    """A part of a message."""
    return {"type": "text", "text": text}


def image_part(url: str, **options: str) -> Mapping[str, Any]:
    """A picture in a message; options such as ``detail="high"``."""
    return {"type": "image_url", "image_url": {"url": url, **options}}
