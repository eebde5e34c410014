"""Pictures of regions and their captions, drawn with Pillow alone.

Colours inside a region are left as they are, because captions speak about them: the outside is
dimmed, and an outline runs around the region. Segments, of which there is no outside, are tinted.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from fastregion.images import RgbImage

__all__ = ["draw_captions", "draw_marks", "draw_regions", "draw_segments"]

_Color = tuple[int, int, int]
# Bright and far apart, also for colour-blind readers; black is readable on all of them.
_PALETTE: tuple[_Color, ...] = (
    (255, 200, 30),
    (70, 190, 255),
    (255, 120, 170),
    (130, 225, 90),
    (195, 150, 255),
    (255, 145, 60),
    (70, 225, 205),
    (225, 225, 225),
)
_INK, _PAPER = (25, 25, 30), (255, 255, 255)
_LONGEST_SIDE, _SHORTEST_LONG_SIDE = 1280, 720  # the drawing's picture, in pixels
_DIM = 0.42  # brightness left outside the regions
_TINT = 0.5  # of a segment's own colour over the picture
_SHADES = ((_INK, 0.0), (_INK, 0.35), (_PAPER, 0.5))
_TALL = 1.2  # height / width from which captions stand beside the picture


def draw_regions(
    image: RgbImage,
    masks: Sequence[npt.NDArray[np.bool_]],
    *,
    longest_side: int | None = None,
) -> Image.Image:
    """Dim what is outside all masks, outline each mask, and number them when there are several.

    Args:
        image: uint8 ``[H, W, 3]``; not modified.
        masks: bool ``[H, W]`` each.
        longest_side: of the result in pixels; by default the image's own, but 720 to 1280.

    Returns:
        RGB, of the image's aspect ratio.
    """
    picture, scale = _enlarged(image, longest_side)
    soft = [_resized_mask(mask, picture.size, scale) for mask in masks]
    inside = functools.reduce(ImageChops.lighter, soft)
    gray = picture.convert("L").convert("RGB")
    outside = Image.blend(picture, gray, 0.5).point(lambda value: value * _DIM)
    picture = Image.composite(picture, outside, inside)

    thickness = max(1, round(max(picture.size) / 360))
    for index, mask in enumerate(soft):
        _paint_outline(picture, mask, _INK, thickness + 1, max(2, thickness))
        _paint_outline(picture, mask, _color(index), thickness, max(1, thickness - 1))
    if len(masks) > 1:
        _draw_numbers(picture, soft, radius=_badge_radius(picture))
    return picture


def draw_segments(image: RgbImage, masks: Sequence[npt.NDArray[np.bool_]]) -> Image.Image:
    """Tint and outline each mask in a colour of its own, and number it where it is thickest.

    Args:
        image: uint8 ``[H, W, 3]``; not modified.
        masks: bool ``[H, W]`` each, not overlapping, at least a pixel each.

    Returns:
        RGB, of the image's aspect ratio, the longest side 720 to 1280.
    """
    picture, scale = _enlarged(image, None)
    gray = picture.convert("L").convert("RGB")
    picture = Image.blend(picture, gray, 0.6)  # so that tints can be told apart
    soft = [_resized_mask(mask, picture.size, scale) for mask in masks]
    for index, mask in enumerate(soft):
        picture.paste(_color(index), (0, 0), mask.point(lambda value: value * _TINT))
    thickness = max(1, round(max(picture.size) / 720))
    for mask in soft:
        _paint_outline(picture, mask, _INK, 0, thickness)
    for index, mask in enumerate(soft):
        _draw_badge(picture, _thickest_place(mask), _badge_radius(picture), index)
    return picture


def draw_marks(
    image: RgbImage, masks: Sequence[npt.NDArray[np.bool_]], *, tint: float, numbered: bool
) -> Image.Image:
    """Outline each mask, and tint and number it where that is wanted; nothing else is changed.

    Args:
        image: uint8 ``[H, W, 3]``; not modified.
        masks: bool ``[H, W]`` each, at least a pixel each.
        tint: share of a mask's own colour over the picture inside it, in 0..1.
        numbered: whether each has its number, from 1.

    Returns:
        RGB, of the image's size.
    """
    picture, scale = _enlarged(image, max(image.shape[:2]))
    soft = [_resized_mask(mask, picture.size, scale) for mask in masks]
    for index, mask in enumerate(soft):
        picture.paste(_color(index), (0, 0), mask.point(lambda value: value * tint))
    thickness = max(1, round(max(picture.size) / 360))
    for index, mask in enumerate(soft):
        _paint_outline(picture, mask, _INK, thickness + 1, 0)
        _paint_outline(picture, mask, _color(index), thickness, 1)
    if numbered:
        _draw_numbers(picture, soft, radius=_badge_radius(picture))
    return picture


def draw_captions(
    picture: Image.Image, captions: Sequence[str], *, numbered: bool | None = None
) -> Image.Image:
    """Put captions on a paper strip below the picture, or beside it when it is tall.

    Args:
        picture: the drawing.
        captions: at least one.
        numbered: whether each has its number in front; by default when there are several.
    """
    margin = max(picture.size) // 50
    font = _font(max(15, max(picture.size) // 46))
    beside = picture.height > _TALL * picture.width
    strip = max(picture.width, 420) if beside else max(picture.width, 480)
    badge = font.size if (len(captions) > 1 if numbered is None else numbered) else 0
    indent = 2 * margin + badge if badge else margin
    column = strip - indent - margin
    blocks = [list(_wrap(caption, font, column)) for caption in captions]
    line_height = round(font.size * 1.35)
    gap = line_height // 2
    text_height = sum(len(block) for block in blocks) * line_height + gap * (len(blocks) - 1)

    if beside:
        corner = (picture.width, 0)
        size = (picture.width + strip, max(picture.height, text_height + 2 * margin))
    else:
        corner = (0, picture.height)
        size = (strip, picture.height + text_height + 2 * margin)
    page = Image.new("RGB", size, _PAPER)
    page.paste(picture, (0 if beside else (strip - picture.width) // 2, 0))
    draw = ImageDraw.Draw(page)
    y = corner[1] + margin
    for index, block in enumerate(blocks):
        if badge:
            center = (corner[0] + margin + badge // 2, y + line_height // 2)
            _draw_badge(page, center, badge * 0.62, index)
        for line in block:
            middle = y + line_height // 2
            draw.text((corner[0] + indent, middle), line, fill=_INK, font=font, anchor="lm")
            y += line_height
        y += gap
    return page


def _color(index: int) -> _Color:
    """Of the palette; past its end in another shade, so that neighbours in number differ."""
    color = _PALETTE[index % len(_PALETTE)]
    towards, share = _SHADES[index // len(_PALETTE) % len(_SHADES)]
    red, green, blue = (
        round(value + (other - value) * share) for value, other in zip(color, towards, strict=True)
    )
    return red, green, blue


def _enlarged(image: RgbImage, longest_side: int | None) -> tuple[Image.Image, float]:
    """The picture at the size of a drawing, and how many times larger that is."""
    height, width = image.shape[:2]
    if longest_side is None:
        longest_side = min(max(height, width, _SHORTEST_LONG_SIDE), _LONGEST_SIDE)
    scale = longest_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), scale


def _badge_radius(picture: Image.Image) -> int:
    return max(7, max(picture.size) // 55)


@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _resized_mask(mask: npt.NDArray[np.bool_], size: tuple[int, int], scale: float) -> Image.Image:
    """The mask as gray with edges one pixel soft; a region too small for the size keeps a pixel."""
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    if scale > 1:  # enlarging makes the edge `scale` pixels soft
        soft = soft.point(lambda value: (value - 127.5) * scale + 127.5)
    if np.asarray(soft).max() < 128 and mask.any():
        rows, columns = np.nonzero(mask)
        x = int(columns.mean() * size[0] / mask.shape[1])
        y = int(rows.mean() * size[1] / mask.shape[0])
        soft.putpixel((x, y), 255)
    return soft


def _paint_outline(
    picture: Image.Image, mask: Image.Image, color: _Color, outward: int, inward: int
) -> None:
    """Paint a band along the outline; it stays visible where the mask touches the border."""
    box = mask.getbbox()
    assert box is not None, "a resized mask keeps a pixel"
    pad = outward + 2
    inside = np.pad(np.asarray(mask.crop(box)), pad)
    grown, outside = inside, 255 - inside
    for _ in range(outward):
        grown = _grow(grown)
    for _ in range(inward):
        outside = _grow(outside)
    band = np.minimum(grown, outside)
    soft = Image.fromarray(band).filter(ImageFilter.GaussianBlur(0.7))
    picture.paste(color, (box[0] - pad, box[1] - pad), soft)


def _grow(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Each pixel takes the maximum of its 3 x 3 neighbourhood."""
    for axis in (0, 1):
        padded = np.pad(gray, [(1, 1) if a == axis else (0, 0) for a in (0, 1)])
        low, middle, high = (
            padded.take(range(start, start + gray.shape[axis]), axis) for start in range(3)
        )
        gray = np.maximum(np.maximum(low, middle), high)
    return gray


def _draw_numbers(picture: Image.Image, masks: Sequence[Image.Image], radius: int) -> None:
    taken: list[tuple[float, float]] = []
    for index, mask in enumerate(masks):
        places = _badge_places(mask, radius)

        def distance(place: tuple[float, float]) -> float:
            return min((np.hypot(place[0] - x, place[1] - y) for x, y in taken), default=np.inf)

        free = [place for place in places if distance(place) > 2.3 * radius]
        place = free[0] if free else max(places, key=distance)
        taken.append(place)
        _draw_badge(picture, place, radius, index)


def _badge_places(mask: Image.Image, radius: int) -> list[tuple[float, float]]:
    """Where a region's number may stand, best first: above it, beside it, below it, on it.

    Places beyond the picture's border are moved inside, where they may cover the region: they come
    last.
    """
    rows, columns = np.nonzero(np.asarray(mask) >= 128)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    reach, edge = 1.4 * radius, radius + 2
    wanted = [
        (columns[rows == top].mean(), top - reach),
        (left - reach, rows[columns == left].mean()),
        (right + reach, rows[columns == right].mean()),
        (columns[rows == bottom].mean(), bottom + reach),
        (columns.mean(), rows.mean()),
    ]
    inside = [
        (
            float(min(max(x, edge), max(mask.width - edge, edge))),
            float(min(max(y, edge), max(mask.height - edge, edge))),
        )
        for x, y in wanted
    ]
    moved = [np.hypot(x - u, y - v) for (x, y), (u, v) in zip(wanted, inside, strict=True)]
    order = sorted(range(len(wanted)), key=lambda i: bool(moved[i] > 0.7 * radius))
    return [inside[i] for i in order]


def _thickest_place(mask: Image.Image) -> tuple[float, float]:
    """The middle of the largest square inside a mask, about."""
    box = mask.getbbox()
    assert box is not None, "a resized mask keeps a pixel"
    small = mask.crop(box)
    small.thumbnail((96, 96), Image.Resampling.BOX)
    left = np.pad(np.asarray(small), 1)
    layer = left
    while layer.max() >= 128:  # peeled until nothing remains
        left, layer = layer, 255 - _grow(255 - layer)
    rows, columns = np.nonzero(left == left.max())
    middle = len(rows) // 2
    x = box[0] + (columns[middle] - 0.5) * (box[2] - box[0]) / small.width
    y = box[1] + (rows[middle] - 0.5) * (box[3] - box[1]) / small.height
    return float(x), float(y)


def _draw_badge(
    picture: Image.Image, center: tuple[float, float], radius: float, index: int
) -> None:
    """A filled circle with a number, drawn at four times the size for smooth edges."""
    zoom = 4
    side = int(2 * radius) + 4
    badge = Image.new("RGBA", (side * zoom, side * zoom), (*_INK, 0))
    draw = ImageDraw.Draw(badge)
    middle, r = side * zoom / 2, radius * zoom
    draw.circle((middle, middle), r + zoom, fill=(*_INK, 255))
    draw.circle((middle, middle), r, fill=(*_color(index), 255))
    number = str(index + 1)
    font = _font(int(r * (1.35 if len(number) == 1 else 1.05)))
    draw.text((middle, middle), number, fill=(*_INK, 255), font=font, anchor="mm")
    badge = badge.resize((side, side), Image.Resampling.LANCZOS)
    picture.paste(badge, (round(center[0] - side / 2), round(center[1] - side / 2)), badge)


def _wrap(text: str, font: Any, width: int) -> Iterator[str]:
    """Lines no wider than ``width`` pixels; words that are too long for a line are cut."""
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}" if line else word
            if font.getlength(joined) <= width:
                line = joined
                continue
            if line:
                yield line
            while font.getlength(word) > width and len(word) > 1:
                too_long = bisect.bisect_right(
                    range(len(word)), width, key=lambda end: font.getlength(word[:end])
                )
                cut = max(1, too_long - 1)
                yield word[:cut]
                word = word[cut:]
            line = word
        yield line
