"""Objects of a scene: shapes with surfaces, placed and painted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastregion.scenes import textures
from fastregion.scenes.facts import Mask, crop_box, finest_period
from fastregion.scenes.outlines import SHAPES, Outline, sample_outline, with_hole
from fastregion.scenes.scene import MIN_AREA, SIZE_RANGES, SIZE_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class _Style:
    """How an object looks, apart from its outline."""

    pattern: str
    first: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]
    roughness: float


@dataclass(frozen=True, kw_only=True)
class Painted:
    """An object on the canvas: what it was drawn from and where it covers pixels."""

    outline: Outline
    pattern: str | None
    mask: Mask  # before anything was painted over it
    complete: float  # share of the outline that lies inside the image


def _sample_style(rng: np.random.Generator) -> _Style:
    first = textures.sample_color(rng)
    pattern = "plain" if rng.random() < 0.3 else str(rng.choice(textures.PATTERNS[1:]))
    roughness = rng.uniform(0.02, 0.15) if rng.random() < 0.45 else 0.0
    return _Style(
        pattern=pattern,
        first=first,
        second=textures.sample_other_color(rng, first),
        roughness=roughness,
    )


def place_outline(
    rng: np.random.Generator,
    outline: Outline,
    height: int,
    width: int,
    area: float,
    *,
    cut: bool,
) -> Outline:
    """Scales an outline to ``area`` pixels, turns it and places it (across an edge for ``cut``)."""
    scale = float(np.sqrt(area / outline.area))
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.7 else float(rng.integers(4)) * np.pi / 2
    turned = outline.transformed(scale=scale, angle=angle, center=(0.0, 0.0))
    x0, y0, x1, y1 = turned.bounds
    low, high = np.array([-x0 + 1, -y0 + 1]), np.array([width - x1 - 1, height - y1 - 1])
    middle = (low + high) / 2
    low, high = np.minimum(low, middle), np.maximum(high, middle)
    center = rng.uniform(low, high)
    if cut:
        axis = int(rng.integers(2))
        inward = rng.uniform(-0.15, 0.3) * (x1 - x0, y1 - y0)[axis]
        center[axis] = inward if rng.random() < 0.5 else (width, height)[axis] - inward
    return turned.transformed(scale=1.0, angle=0.0, center=(float(center[0]), float(center[1])))


def _paint_object(
    rng: np.random.Generator, canvas: textures.FloatArray, outline: Outline, style: _Style
) -> Painted | None:
    height, width = canvas.shape[:2]
    box = textures.clip_box(outline, height, width)
    if box is None:
        return None
    alpha = outline.alpha(box)
    covered = alpha > 0.5
    if covered.sum() < MIN_AREA:
        return None
    pattern, period = style.pattern, 1.0
    if pattern not in ("plain", "gradient"):
        # Two periods must fit across the narrow side of the region, not of its box.
        across = min(2.0 * float(np.sqrt(covered.sum() / np.pi)), *covered.shape)
        if outline.shape in ("elongated", "ring-shaped", "crescent"):
            across *= 0.5
        low, high = finest_period(height, width), across / 2.3
        if low >= high:
            pattern = "plain"
        else:
            widest = min(high, 3 * low if pattern == "speckled" else 6 * low)
            period = float(np.exp(rng.uniform(np.log(low), np.log(widest))))
    weight = textures.pattern_weight(rng, pattern, *alpha.shape, period=period)
    surface = textures.mix(weight, style.first, style.second)
    if style.roughness > 0 and alpha.size > 64:
        surface = textures.shade(rng, surface, strength=style.roughness)
    textures.paint(canvas, alpha, surface, box[0], box[1])
    mask = np.zeros((height, width), bool)
    mask[box[1] : box[3], box[0] : box[2]] = covered
    seen: str | None = pattern
    if pattern == "gradient" and covered.sum() < 150:
        seen = None
    x0, y0, x1, y1 = outline.bounds
    inside = x0 > -1 and y0 > -1 and x1 < width + 1 and y1 < height + 1
    complete = 1.0 if inside else min(float(covered.sum()) / outline.area, 1.0)
    return Painted(outline=outline, pattern=seen, mask=mask, complete=complete)


def paint_objects(rng: np.random.Generator, canvas: textures.FloatArray) -> list[Painted]:
    """Two to six objects, some of them inside, over or behind each other."""
    height, width = canvas.shape[:2]
    objects: list[Painted] = []
    for _ in range(int(rng.integers(2, 7))):
        outline = sample_outline(rng, str(rng.choice(SHAPES)))
        compact = ("round", "oval", "square", "rectangular", "triangular", "irregular")
        if outline.shape in compact and rng.random() < 0.07:
            outline = with_hole(rng, outline)
        low, high = SIZE_RANGES[int(rng.choice(5, p=SIZE_WEIGHTS))]
        area = float(np.exp(rng.uniform(np.log(low), np.log(high)))) * height * width
        if outline.shape in ("elongated", "ring-shaped", "cross-shaped", "star-shaped", "crescent"):
            area = min(area, 0.2 * height * width)  # thin outlines of that area would not fit
        cut = rng.random() < 0.14
        placed = place_outline(rng, outline, height, width, max(area, 60.0), cut=cut)
        if objects and rng.random() < 0.15:  # inside or over an earlier object
            x0, y0, x1, y1 = crop_box(objects[int(rng.integers(len(objects)))].mask)
            x, y = rng.uniform(0.2, 0.8, 2)
            a0, b0, a1, b1 = placed.bounds
            move = (x0 + x * (x1 - x0) - (a0 + a1) / 2, y0 + y * (y1 - y0) - (b0 + b1) / 2)
            placed = placed.transformed(scale=1.0, angle=0.0, center=move)
        painted = _paint_object(rng, canvas, placed, _sample_style(rng))
        if painted is not None:
            objects.append(painted)
    return objects


def paint_lookalikes(
    rng: np.random.Generator, canvas: textures.FloatArray, count: int | None = None
) -> list[Painted]:
    """Objects of one shape and colour that do not touch.

    As many as asked for, where they find room, or two to four and perhaps one other.
    """
    height, width = canvas.shape[:2]
    shape, style = str(rng.choice(SHAPES)), _sample_style(rng)
    share = float(np.exp(rng.uniform(np.log(0.004), np.log(0.06))))
    same_size = rng.random() < 0.5
    taken = np.zeros((height, width), bool)
    objects: list[Painted] = []
    wanted, tries = int(rng.integers(2, 5)), 0
    other, most_tries = rng.random() < 0.4, 14
    if count is not None:
        wanted, other, most_tries = count, False, 8 * count
        share *= min(1.0, 3 / count)  # as crowded as with three
    while len(objects) < wanted + other and tries < most_tries:
        tries += 1
        last = len(objects) >= wanted
        outline = sample_outline(rng, str(rng.choice(SHAPES)) if last else shape)
        area = share * height * width * (1.0 if same_size else float(rng.uniform(0.5, 2.2)))
        placed = place_outline(rng, outline, height, width, max(area, 80.0), cut=False)
        box = textures.clip_box(placed, height, width)
        if box is None or taken[box[1] : box[3], box[0] : box[2]].any():
            continue
        painted = _paint_object(rng, canvas, placed, _sample_style(rng) if last else style)
        if painted is not None:
            objects.append(painted)
            taken |= painted.mask
    return objects
