"""Surfaces: the six patterns, multi-scale noise, backgrounds and what a camera adds.

Images are float32 ``[H, W, 3]`` in 0..255 until the camera rounds them to uint8.
"""

from __future__ import annotations

import functools
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from fastregion.scenes.colors import (
    COLOR_CENTERS,
    COLOR_TERMS,
    fair_terms,
    name_colors,
    oklab_to_srgb,
    srgb_to_oklab,
)
from fastregion.scenes.outlines import Outline, sample_outline, soft_blob

PATTERNS = ("plain", "striped", "checkered", "dotted", "speckled", "gradient")

FloatArray = npt.NDArray[np.float32]
_POOL = 400  # colours kept ready for each term


@functools.cache
def _pools() -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, npt.NDArray[np.float64]]]:
    """SRGB colours at the centre of each term, and anywhere in its range."""
    rng = np.random.default_rng(20)
    clear: dict[str, npt.NDArray[np.float64]] = {}
    for term in COLOR_TERMS:
        box = COLOR_CENTERS[term]
        lightness, chroma = rng.uniform(*box.lightness, 9000), rng.uniform(*box.chroma, 9000)
        hue = np.radians(rng.uniform(*box.hue, 9000))
        rgb = oklab_to_srgb(
            np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
        )
        clear[term] = rgb[((rgb >= 0) & (rgb <= 255)).all(axis=1)][:_POOL]
    rgb = rng.uniform(0, 255, (120_000, 3))
    gray = rng.uniform(0, 255, (6_000, 1)) + rng.normal(0, 4, (6_000, 3))
    rgb = np.clip(np.concatenate([rgb, gray]), 0, 255)
    names = name_colors(rgb.astype(np.uint8))
    fair = fair_terms(rgb)
    wide = {term: rgb[(names == k) & fair[:, k]][-_POOL:] for k, term in enumerate(COLOR_TERMS)}
    return clear, wide


def sample_color(
    rng: np.random.Generator, term: str | None = None, *, clear: float = 0.6
) -> npt.NDArray[np.float64]:
    """Draws an sRGB colour ``[3]`` of a term, or of any; ``clear`` is the share of clear ones."""
    if term is None:
        term = COLOR_TERMS[int(rng.integers(len(COLOR_TERMS)))]
    pool = _pools()[0 if rng.random() < clear else 1][term]
    color: npt.NDArray[np.float64] = pool[int(rng.integers(len(pool)))]
    return color


def sample_other_color(
    rng: np.random.Generator, color: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Draws a clearly different colour: another term, 0.22 or more apart in Oklab."""
    lab = srgb_to_oklab(color)
    name = name_colors(color.astype(np.uint8))
    while True:
        other = sample_color(rng)
        far = np.linalg.norm(srgb_to_oklab(other) - lab) >= 0.22
        if far and name_colors(other.astype(np.uint8)) != name:
            return other


def noise(
    rng: np.random.Generator, height: int, width: int, *, finest: float, roughness: float
) -> FloatArray:
    """Multi-scale noise of unit variance: octaves of smooth random fields.

    Args:
        rng: Source of randomness.
        height: Rows.
        width: Columns.
        finest: Smallest feature size in pixels.
        roughness: Amplitude of an octave over that of the next coarser; 0.5 is smooth.
    """
    # From coarse to fine: each octave doubles the grid of the sum so far and adds its own values to
    # the nodes, so that only the last step touches full-size arrays.
    octaves = max(int(np.log2(max(height, width) / finest)), 0) + 1
    step = float(max(height, width))
    amplitude, total = 1.0, np.zeros((0, 0), np.float32)
    for octave in range(octaves):
        rows, columns = int(height / step) + 3, int(width / step) + 3
        if octave:
            total = _resized(
                total, rows, columns, (0.0, 0.0, (columns - 1) / 2 + 0.5, (rows - 1) / 2 + 0.5)
            )
        else:
            total = np.zeros((rows, columns), np.float32)
        total = total + np.float32(amplitude) * rng.standard_normal((rows, columns), np.float32)
        step, amplitude = step / 2, amplitude * roughness
    step *= 2
    x, y = rng.uniform(0, 1, 2)
    total = _resized(total, height, width, (x, y, x + width / step, y + height / step))
    normalized: FloatArray = (total - total.mean()) / (total.std() + np.float32(1e-6))
    return normalized


def _resized(
    value: FloatArray, height: int, width: int, box: tuple[float, float, float, float]
) -> FloatArray:
    rows, columns = value.shape
    box = (box[0], box[1], min(box[2], columns), min(box[3], rows))
    picture = Image.fromarray(value).resize((width, height), Image.Resampling.BICUBIC, box)
    return np.asarray(picture)


def _soft_step(value: FloatArray, width: float) -> FloatArray:
    """0 below -width/2, 1 above +width/2, linear between: an anti-aliased edge at 0."""
    step: FloatArray = np.clip(value / width + 0.5, 0.0, 1.0)
    return step


def pattern_weight(
    rng: np.random.Generator, pattern: str, height: int, width: int, *, period: float
) -> FloatArray:
    """Share of the second colour at each pixel, ``[height, width]`` in 0..1.

    Args:
        rng: Source of randomness.
        pattern: One of :data:`PATTERNS`.
        height: Rows of the object's box.
        width: Columns of the object's box.
        period: Length of one repetition in pixels (speckles: about three times their size).

    Raises:
        ValueError: ``pattern`` is none of :data:`PATTERNS`.
    """
    if pattern == "plain":
        return np.zeros((height, width), np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, np.pi) if rng.random() < 0.7 else float(rng.choice([0.0, np.pi / 2]))
    u = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    v = np.float32(-np.sin(angle)) * x + np.float32(np.cos(angle)) * y
    if pattern == "gradient":
        if rng.random() < 0.25:
            center = (rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height)
            u = np.hypot(x - np.float32(center[0]), y - np.float32(center[1]))
        t = (u - u.min()) / max(float(np.ptp(u)), 1.0)
        if rng.random() < 0.3:
            t = t ** np.float32(rng.uniform(0.7, 1.4))
        weight: FloatArray = np.clip((t - 0.5) * np.float32(rng.uniform(1.0, 1.5)) + 0.5, 0, 1)
        return weight
    if pattern == "speckled":
        if rng.random() < 0.4:
            return _flecks(rng, height, width, size=max(period / 3, 1.5))
        share = rng.uniform(0.1, 0.35)
        grain = noise(rng, height, width, finest=max(period / 3, 1.5), roughness=2.2)
        return _soft_step(grain - np.float32(np.quantile(grain, 1 - share)), 0.5)
    u = u / np.float32(period) + np.float32(rng.random())
    v = v / np.float32(period) + np.float32(rng.random())
    if rng.random() < 0.15:  # the cloth is not flat
        bend = noise(rng, height, width, finest=max(4 * period, 24.0), roughness=0.4)
        u = u + np.float32(rng.uniform(0.1, 0.3)) * bend
    edge = 1.2 / period  # an edge is a little over a pixel wide
    if rng.random() < 0.15:
        edge = max(edge, float(rng.uniform(0.1, 0.4)))  # soft edges
    if pattern == "striped":
        duty = rng.uniform(0.25, 0.6)
        return _soft_step(np.float32(duty / 2) - np.abs(u - np.floor(u) - 0.5), edge)
    if pattern == "checkered":
        wave = (np.abs(u - np.floor(u) - 0.5) - 0.25) * (np.abs(v - np.floor(v) - 0.5) - 0.25)
        return _soft_step(wave, edge * 0.25)
    if pattern == "dotted":
        return _soft_step(_dot_distance(rng, u, v), edge)
    raise ValueError(f"pattern: expected one of {', '.join(PATTERNS)}, got {pattern!r}")


def _flecks(rng: np.random.Generator, height: int, width: int, *, size: float) -> FloatArray:
    """Separate flecks of about ``size`` pixels, strewn at random."""
    # Smooth noise without coarse octaves has one bump every few sizes; its peaks are the flecks.
    grain = noise(rng, height, width, finest=size, roughness=6.0)
    if rng.random() < 0.5:  # ragged ones
        grain = grain + np.float32(0.4) * rng.standard_normal((height, width), np.float32)
    share = rng.uniform(0.06, 0.3)
    return _soft_step(grain - np.float32(np.quantile(grain, 1 - share)), 0.3)


def _dot_distance(rng: np.random.Generator, u: FloatArray, v: FloatArray) -> FloatArray:
    """How deep inside a dot a pixel lies, in periods; dots stand on the grid of integers."""
    if rng.random() < 0.5:  # every second row is shifted by half a period
        u = u + np.float32(0.5) * (np.floor(v) % 2)
    column, row = np.floor(u), np.floor(v)
    radius = np.float32(rng.uniform(0.2, 0.38))
    if rng.random() < 0.25:  # hand-made: dots of several sizes that miss their places a little
        shape = (64, 64)
        key = (row.astype(np.int64) % 64, column.astype(np.int64) % 64)
        slack = np.float32(0.45) - radius
        dx, dy = (rng.uniform(-slack, slack, shape).astype(np.float32)[key] for _ in range(2))
        radius = radius * rng.uniform(0.8, 1.1, shape).astype(np.float32)[key]
        u, v = u - dx, v - dy
    distance: FloatArray = radius - np.hypot(u - column - 0.5, v - row - 0.5)
    return distance


def mix(weight: FloatArray, first: npt.ArrayLike, second: npt.ArrayLike) -> FloatArray:
    """Blends two sRGB colours by ``weight`` ``[H, W]``; returns ``[H, W, 3]``."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    mixed: FloatArray = first + weight[..., None] * (second - first)
    return mixed


def shade(rng: np.random.Generator, image: FloatArray, *, strength: float) -> FloatArray:
    """Multiplies brightness by multi-scale noise of relative standard deviation ``strength``."""
    height, width = image.shape[:2]
    field = noise(rng, height, width, finest=rng.uniform(1.5, 8), roughness=rng.uniform(0.5, 0.95))
    shaded: FloatArray = image * (1 + np.float32(strength) * field)[..., None]
    return shaded


def paint(image: FloatArray, alpha: FloatArray, surface: FloatArray, x: int, y: int) -> None:
    """Lays ``surface [h, w, 3]`` over the image at (x, y) through ``alpha [h, w]``, in place."""
    height, width = alpha.shape
    part = image[y : y + height, x : x + width]
    part += alpha[..., None] * (surface - part)


def clip_box(outline: Outline, height: int, width: int) -> tuple[int, int, int, int] | None:
    """The pixels that an outline can touch, clipped to the image; None when it lies outside."""
    x0, y0, x1, y1 = outline.bounds
    box = (
        max(int(x0) - 1, 0),
        max(int(y0) - 1, 0),
        min(int(x1) + 2, width),
        min(int(y1) + 2, height),
    )
    return box if box[0] < box[2] and box[1] < box[3] else None


def _leaves(rng: np.random.Generator, image: FloatArray) -> None:
    """Covers the image with overlapping pieces: edges and textures as a photograph has them."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(8, 26))):
        shape = rng.choice(["soft", "round", "rectangular", "triangular", "elongated"])
        outline = (
            Outline(shape=None, points=soft_blob(rng))
            if shape == "soft"
            else sample_outline(rng, shape)
        )
        outline = outline.transformed(
            scale=max(height, width) * float(rng.uniform(0.03, 0.16)),
            angle=rng.uniform(0, 2 * np.pi),
            center=(rng.uniform(0, width), rng.uniform(0, height)),
        )
        box = clip_box(outline, height, width)
        if box is None:
            continue
        alpha = outline.alpha(box)
        first = sample_color(rng, clear=0.2)
        second = first * rng.uniform(0.6, 1.2)
        pattern = "gradient" if rng.random() < 0.5 else "plain"
        surface = mix(pattern_weight(rng, pattern, *alpha.shape, period=1.0), first, second)
        if alpha.size > 64 and rng.random() < 0.5:
            surface = shade(rng, surface, strength=rng.uniform(0.0, 0.2))
        paint(image, alpha, surface, box[0], box[1])


def background(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Draws a background: flat, graded, cloudy, patterned, a horizon, or overlapping pieces."""
    kind = rng.choice(
        ["flat", "gradient", "clouds", "pattern", "horizon", "leaves"],
        p=[0.24, 0.14, 0.22, 0.08, 0.10, 0.22],
    )
    first = sample_color(rng, clear=0.45)
    second = sample_color(rng, clear=0.3)
    if kind in ("flat", "leaves"):
        image = mix(np.zeros((height, width), np.float32), first, second)
    elif kind == "gradient":
        image = mix(pattern_weight(rng, "gradient", height, width, period=1.0), first, second)
    elif kind == "clouds":
        if rng.random() < 0.5:
            second = first * rng.uniform(0.5, 1.4)
        field = noise(
            rng, height, width, finest=rng.uniform(2, 24), roughness=rng.uniform(0.45, 0.85)
        )
        image = mix(np.clip(0.5 + field * rng.uniform(0.2, 0.7), 0, 1), first, second)
    elif kind == "pattern":
        pattern = str(rng.choice(["striped", "checkered", "dotted", "speckled"]))
        period = rng.uniform(8, max(height, width) / 4)
        image = mix(pattern_weight(rng, pattern, height, width, period=period), first, second)
    else:
        line = rng.uniform(0.25, 0.75) * height
        wobble = (
            noise(rng, 1, width, finest=width / 12, roughness=0.5)[0]
            * rng.uniform(0, 0.06)
            * height
        )
        rows = np.arange(height, dtype=np.float32)[:, None]
        image = mix(_soft_step(rows - (line + wobble[None]), 2.0), first, second)
    if kind == "leaves":
        _leaves(rng, image)
    if rng.random() < 0.5:
        image = shade(rng, image, strength=rng.uniform(0.03, 0.2))
    return image


def light(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    """A lamp from one side, or a vignette, or a slight colour cast."""
    height, width = image.shape[:2]
    weight = pattern_weight(rng, "gradient", height, width, period=1.0)
    low, high = rng.uniform(0.72, 1.0), rng.uniform(1.0, 1.15)
    cast = rng.uniform(0.96, 1.04, 3).astype(np.float32)
    lit: FloatArray = image * (np.float32(low) + np.float32(high - low) * weight)[..., None] * cast
    return lit


def expose(rng: np.random.Generator, image: FloatArray) -> npt.NDArray[np.uint8]:
    """What a camera does to a picture: blur, sensor noise, rounding to uint8, JPEG."""
    if rng.random() < 0.6:
        image = image + rng.normal(0, rng.uniform(0.5, 9), image.shape).astype(np.float32)
    picture = Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    if rng.random() < 0.35:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.5:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(rng.integers(35, 96)))
        picture = Image.open(file)
    return np.array(picture)
