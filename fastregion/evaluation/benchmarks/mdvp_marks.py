"""The picture that MDVP-Bench's judge sees: darkened, with numbered green boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastregion.images import RgbImage

__all__ = ["numbered_boxes"]

_DARKER = 0.8
_GREEN, _WHITE, _BLACK = (0, 255, 0), (255, 255, 255), (0, 0, 0)
_LINE = 2  # pixels
_NUMBER_AT = (4, 20)  # of the number's lower left corner, from that of the box
_FONT_SIZE = 20  # about that of the published drawing


def numbered_boxes(image: RgbImage, boxes: Sequence[Sequence[float]]) -> RgbImage:
    """Draw boxes with their numbers, from 1.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        boxes: (x0, y0, x1, y1) in pixels, exclusive ends.

    Returns:
        A new picture of the same size.
    """
    picture = Image.fromarray((image * _DARKER).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_FONT_SIZE)
    for number, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=_GREEN, width=_LINE)
        place = x0 + _NUMBER_AT[0], y0 + _NUMBER_AT[1]
        draw.rectangle(draw.textbbox(place, str(number), font=font, anchor="ls"), fill=_BLACK)
        draw.text(place, str(number), fill=_WHITE, font=font, anchor="ls")
    return np.asarray(picture)
