"""How a general vision-language model is shown regions: as pictures, and by what name.

==============  ===========================================================================
contour         the picture, an outline around the region
overlay         the picture, the region tinted and outlined
crop            the box around the region, enlarged by a fifth on every side
blur-outside    the picture, blurred outside the region
set-of-marks    the picture, each region tinted and numbered
==============  ===========================================================================

Several regions are numbered also as contours and overlays; crops and blurred pictures come one a
region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from fastregion.images import RgbImage
from fastregion.models.drawing import draw_marks
from fastregion.regions import Region

__all__ = ["PRESENTATIONS", "Presented", "present"]

_TINT = 0.4
_CROP_MARGIN = 0.2  # of the box, on every side
_LEAST_CROP = 28  # pixels a side: less shows nothing
_BLUR = 40  # the picture's longer side over the blur's standard deviation


@dataclass(frozen=True, kw_only=True)
class Presented:
    """Regions as a model is shown them.

    Attributes:
        pictures: RGB.
        names: what each region is called in words.
    """

    pictures: Sequence[Image.Image]
    names: Sequence[str]


def present(name: str, image: RgbImage, regions: Sequence[Region]) -> Presented:
    """Show regions in one of the ways of :data:`PRESENTATIONS`.

    Args:
        name: of the way.
        image: uint8 ``[H, W, 3]``.
        regions: of this image, at least one.

    Raises:
        ValueError: an unknown name.
    """
    if name not in PRESENTATIONS:
        raise ValueError(f"present: expected one of {', '.join(PRESENTATIONS)}, got {name!r}")
    return PRESENTATIONS[name](image, regions)


def _contour(image: RgbImage, regions: Sequence[Region]) -> Presented:
    return _marked(image, regions, "the outlined region", tint=0.0, numbered=len(regions) > 1)


def _overlay(image: RgbImage, regions: Sequence[Region]) -> Presented:
    return _marked(image, regions, "the tinted region", tint=_TINT, numbered=len(regions) > 1)


def _set_of_marks(image: RgbImage, regions: Sequence[Region]) -> Presented:
    return _marked(image, regions, "the marked region", tint=_TINT, numbered=True)


def _marked(
    image: RgbImage, regions: Sequence[Region], name: str, *, tint: float, numbered: bool
) -> Presented:
    masks = [region.mask for region in regions]
    picture = draw_marks(image, masks, tint=tint, numbered=numbered)
    names = [f"{name} with the number {k}" if numbered else name for k in _numbers(regions)]
    return Presented(pictures=[picture], names=names)


def _crop(image: RgbImage, regions: Sequence[Region]) -> Presented:
    pictures = []
    for region in regions:
        x0, y0, x1, y1 = region.box
        rows, columns = _around(y0, y1), _around(x0, x1)
        pictures.append(Image.fromarray(np.ascontiguousarray(image[rows, columns])))
    return Presented(pictures=pictures, names=_by_picture(regions, "the object in the middle"))


def _around(start: int, end: int) -> slice:
    """A side of the box with its margins, cut at 0 (and, as slices are, at the picture's end)."""
    reach = max((end - start) * (0.5 + _CROP_MARGIN), _LEAST_CROP / 2)
    middle = (start + end) / 2
    return slice(max(0, math.floor(middle - reach)), math.ceil(middle + reach))


def _blur_outside(image: RgbImage, regions: Sequence[Region]) -> Presented:
    picture = Image.fromarray(image)
    blurred = picture.filter(ImageFilter.GaussianBlur(max(picture.size) / _BLUR))
    pictures = [
        Image.composite(picture, blurred, Image.fromarray(region.mask.astype(np.uint8) * 255))
        for region in regions
    ]
    return Presented(pictures=pictures, names=_by_picture(regions, "the sharp region"))


def _by_picture(regions: Sequence[Region], name: str) -> list[str]:
    if len(regions) == 1:
        return [name]
    return [f"{name} of picture {k}" for k in _numbers(regions)]


def _numbers(regions: Sequence[Region]) -> range:
    return range(1, len(regions) + 1)


PRESENTATIONS: dict[str, Callable[[RgbImage, Sequence[Region]], Presented]] = {
    "contour": _contour,
    "overlay": _overlay,
    "crop": _crop,
    "blur-outside": _blur_outside,
    "set-of-marks": _set_of_marks,
}
"""Ways to show regions, by name."""
