"""A second generator of scenes, which shares no code with ``fastregion.scenes``.

Captioners are trained on the scenes of the package; how well they describe pictures that were drawn
in another way is measured here. Shapes are polygons and discs drawn four times too large by pillow
and made smaller; surfaces are computed per pixel; the truths follow the definitions of colours,
shapes and patterns that both generators stand for.
"""

from __future__ import annotations

import colorsys
import io
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from fastregion.evaluation.examples import Example, Task
from fastregion.evaluation.ground_truth import Neighbor, measure_truth

FloatArray = npt.NDArray[np.float64]
Points = list[tuple[float, float]]

# Typical sRGB colours of the eleven terms; paint is one of them, a little off.
_PAINTS = {
    "black": ["#101010", "#050508"],
    "white": ["#f8f8f8", "#fffdf8"],
    "gray": ["#808080", "#9a9a9a", "#6e7072"],
    "red": ["#c81e1e", "#d11f2a", "#b01217"],
    "orange": ["#f08214", "#ee7f22"],
    "yellow": ["#f5dc1e", "#ffe74a"],
    "green": ["#2f9e33", "#1f7a2a", "#52c254"],
    "blue": ["#2350d2", "#1c6fd6", "#123c9c"],
    "purple": ["#7a28b4", "#8e3fc0"],
    "pink": ["#f79ac0", "#f7a6d2"],
    "brown": ["#6b3e1a", "#75481f"],
}
_SHAPES = (
    *("round", "oval", "square", "rectangular", "triangular", "star-shaped", "ring-shaped"),
    *("crescent", "cross-shaped", "elongated", "irregular"),
)
_PATTERNS = ("plain", "striped", "checkered", "dotted", "speckled", "gradient")
_NARROW = ("elongated", "ring-shaped", "crescent", "cross-shaped", "star-shaped")
_SCALE = 4  # outlines are drawn this much larger


def foreign_tasks(count: int, first_seed: int = 0) -> list[Task]:
    """Tasks of an evaluation, in the group "foreign scenes"."""

    def maker(seed: int) -> Task:
        return Task(
            name=f"foreign {seed}",
            group="foreign scenes",
            make=lambda: draw_scene(seed),
            picture=lambda: draw_scene(seed).image,
        )

    return [maker(seed) for seed in range(first_seed, first_seed + count)]


def draw_scene(seed: int) -> Example:
    """The picture of a seed, its regions and their truths."""
    rng = np.random.default_rng((7_919, seed))
    height, width = (int(rng.integers(160, 640)) for _ in range(2))
    canvas = _ground(rng, height, width)
    objects: list[tuple[npt.NDArray[np.bool_], str, str, bool]] = []
    for _ in range(int(rng.integers(2, 6))):
        shape = str(rng.choice(_SHAPES))
        size = float(np.exp(rng.uniform(np.log(0.06), np.log(0.45)))) * min(height, width)
        center = (float(rng.uniform(0.1, 0.9)) * width, float(rng.uniform(0.1, 0.9)) * height)
        cover = _outline(rng, shape, size, center, height, width)
        mask = cover > 0.5
        if mask.sum() < 150:
            continue
        surface, pattern = _surface(rng, mask, narrow=shape in _NARROW)
        canvas = canvas + cover[..., None] * (surface - canvas)
        edges = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
        objects.append((mask, shape, pattern, bool(edges)))
    if not objects:
        return draw_scene(seed + 1_000_000)
    image = _photograph(rng, canvas)
    return _with_truths(image, objects)


def _with_truths(
    image: npt.NDArray[np.uint8], objects: list[tuple[npt.NDArray[np.bool_], str, str, bool]]
) -> Example:
    masks, truths = [], []
    for k, (mask, shape, pattern, cut) in enumerate(objects):
        visible = mask.copy()
        for other, *_ in objects[k + 1 :]:
            visible &= ~other
        if visible.sum() < max(150, 0.5 * mask.sum()):
            continue
        whole = visible.sum() >= 0.97 * mask.sum() and not cut
        shapes = frozenset((shape, "rectangular") if shape == "elongated" else (shape,))
        around = [other for j, (other, *_) in enumerate(objects) if j != k]
        touched = any((_dilated(mask) & other).any() for other in around)
        truths.append(
            replace(
                measure_truth(image, visible),
                patterns=frozenset((pattern,)),
                shapes=shapes if whole else None,
                hole=None if shape == "ring-shaped" or not whole else False,
                # Of neighbours only this is known: whether there are any.
                neighbors=(_ANY,) if touched else (),
            )
        )
        masks.append(visible)
    # Regions too much hidden to ask about still count, so claims of uniqueness are not judged.
    complete = len(masks) == len(objects)
    return Example(image=image, masks=masks, truths=truths, complete=complete)


_ANY = Neighbor(relations=frozenset(("inside", "in front of", "behind", "overlapping")))


def _dilated(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    picture = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(9))
    return np.asarray(picture) > 127


def _paint(rng: np.random.Generator, term: str | None = None) -> FloatArray:
    term = term or str(rng.choice(list(_PAINTS)))
    code = str(rng.choice(_PAINTS[term]))
    color = np.array([int(code[k : k + 2], 16) for k in (1, 3, 5)], float)
    hue, light, saturation = colorsys.rgb_to_hls(*(color / 255))
    light = float(np.clip(light + rng.normal(0, 0.012), 0, 1))
    return 255 * np.array(colorsys.hls_to_rgb(hue, light, saturation))


def _ground(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    y = np.mgrid[0:height, 0:width][0]
    kind = int(rng.integers(5))
    first, second = _paint(rng), _paint(rng)
    flat = np.tile(first, (height, width, 1))
    if kind == 0:
        return flat
    if kind == 1:  # from top to bottom
        return first + (y / height)[..., None] * (second - first)
    if kind == 2:  # a table before a wall
        return np.where((y > height * rng.uniform(0.4, 0.7))[..., None], second, first)
    coarse = rng.normal(size=(int(rng.integers(3, 9)), int(rng.integers(3, 9))))
    cloud = np.asarray(
        Image.fromarray(coarse.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    )
    if kind == 3:  # clouds
        return first + np.clip(0.5 + 0.4 * cloud, 0, 1)[..., None] * (second - first) * 0.5
    grain = rng.normal(size=(height, width)) * rng.uniform(4, 22)  # sand
    return flat + (grain + 14 * cloud)[..., None]


def _outline(
    rng: np.random.Generator,
    shape: str,
    size: float,
    center: tuple[float, float],
    height: int,
    width: int,
) -> FloatArray:
    """Share of each pixel that a shape covers; ``size`` is about half its extent."""
    picture = Image.new("L", (width * _SCALE, height * _SCALE))
    draw = ImageDraw.Draw(picture)
    turn = float(rng.uniform(0, 2 * math.pi))

    def put(points: Points) -> Points:
        c, s = math.cos(turn), math.sin(turn)
        return [
            (
                (center[0] + size * (c * x - s * y)) * _SCALE,
                (center[1] + size * (s * x + c * y)) * _SCALE,
            )
            for x, y in points
        ]

    def disc(x: float, y: float, r: float, fill: int, ratio: float = 1.0) -> None:
        steps = [2 * math.pi * k / 180 for k in range(180)]
        draw.polygon(put([(x + r * math.cos(a), y + r * math.sin(a) / ratio) for a in steps]), fill)

    def box(x: float, y: float) -> None:
        draw.polygon(put([(-x, -y), (x, -y), (x, y), (-x, y)]), 255)

    if shape == "round":
        disc(0, 0, 1, 255)
    elif shape == "oval":
        disc(0, 0, 1, 255, ratio=float(rng.uniform(1.5, 2.0)))
    elif shape == "square":
        box(0.85, 0.85)
    elif shape == "rectangular":
        box(1.0, 1 / float(rng.uniform(1.6, 2.3)))
    elif shape == "triangular":
        angles = [math.pi * (2 * k / 3 + rng.uniform(-0.1, 0.1)) for k in range(3)]
        draw.polygon(put([(math.cos(a), math.sin(a)) for a in angles]), 255)
    elif shape == "star-shaped":
        tips, inner = int(rng.integers(5, 8)), float(rng.uniform(0.4, 0.5))
        radii = [1.0, inner] * tips
        star = [(r, math.pi * k / tips) for k, r in enumerate(radii)]
        draw.polygon(put([(r * math.cos(a), r * math.sin(a)) for r, a in star]), 255)
    elif shape == "ring-shaped":
        disc(0, 0, 1, 255)
        disc(0, 0, float(rng.uniform(0.5, 0.68)), 0)
    elif shape == "crescent":
        disc(0, 0, 1, 255)
        disc(float(rng.uniform(0.42, 0.55)), 0, 0.88, 0)
    elif shape == "cross-shaped":
        arm = float(rng.uniform(0.25, 0.36))
        box(1.0, arm)
        box(arm, 1.0)
    elif shape == "elongated":
        box(1.4, 1.4 / float(rng.uniform(4.8, 7)))
    else:
        bumps = rng.uniform(0.5, 1.15, 9)
        angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
        # A smooth closed curve through nine radii, by its Fourier series.
        series = np.fft.rfft(bumps)
        radius = sum(
            (2 if k else 1) * np.real(series[k] * np.exp(1j * k * angle)) / 9 for k in range(5)
        )
        draw.polygon(
            put([(r * math.cos(a), r * math.sin(a)) for r, a in zip(radius, angle, strict=True)]),
            255,
        )
    small = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, float) / 255


def _surface(
    rng: np.random.Generator, mask: npt.NDArray[np.bool_], *, narrow: bool
) -> tuple[FloatArray, str]:
    """Colours of every pixel, and the pattern's name."""
    height, width = mask.shape
    first = _paint(rng)
    second = _paint(rng)
    while np.abs(first - second).max() < 90:
        second = _paint(rng)
    pattern = str(rng.choice(_PATTERNS, p=[0.35, 0.13, 0.13, 0.13, 0.13, 0.13]))
    across = math.sqrt(float(mask.sum())) * (0.4 if narrow else 0.8)
    finest = max(9.0, max(height, width) / 70)
    if across / 2.5 < finest and pattern not in ("plain", "gradient"):
        pattern = "plain"
    period = float(rng.uniform(finest, max(min(across / 2.5, 5 * finest), finest)))
    y, x = np.mgrid[0:height, 0:width].astype(float)
    turn = float(rng.uniform(0, math.pi))
    u = (math.cos(turn) * x + math.sin(turn) * y) / period
    v = (math.cos(turn) * y - math.sin(turn) * x) / period
    weight: FloatArray = np.zeros((height, width))
    if pattern == "striped":
        weight = np.clip(
            0.5 + period / 3 * (np.sin(2 * math.pi * u) - rng.uniform(-0.2, 0.5)), 0, 1
        )
    elif pattern == "checkered":
        weight = np.clip(0.5 + period / 3 * np.sin(math.pi * u * 2) * np.sin(math.pi * v * 2), 0, 1)
    elif pattern == "dotted":
        distance = np.hypot(u - np.round(u), v - np.round(v)) * period
        weight = np.clip(0.5 + rng.uniform(0.22, 0.36) * period - distance, 0, 1)
    elif pattern == "speckled":
        dust = Image.new("L", (width, height))
        draw = ImageDraw.Draw(dust)
        size = max(finest / 4, 1.5)
        for _ in range(int(0.2 * mask.size / (3 * size * size))):
            cx, cy = rng.uniform(0, width), rng.uniform(0, height)
            a, b = rng.uniform(0.5, 1.3, 2) * size
            draw.ellipse((cx - a, cy - b, cx + a, cy + b), 255)
        weight = np.asarray(dust, float) / 255
    elif pattern == "gradient":
        inside = u[mask]
        weight = np.clip((u - inside.min()) / max(np.ptp(inside), 1e-6), 0, 1)
    surface = first + weight[..., None] * (second - first)
    if rng.random() < 0.4:  # light from one side
        surface = surface * (1 + 0.12 * (x / width - 0.5))[..., None]
    return surface, pattern


def _photograph(rng: np.random.Generator, canvas: FloatArray) -> npt.NDArray[np.uint8]:
    if rng.random() < 0.5:
        canvas = canvas + rng.normal(0, rng.uniform(1, 6), canvas.shape)
    picture = Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(0.7))
    if rng.random() < 0.6:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(rng.integers(50, 95)))
        picture = Image.open(file)
    return np.array(picture.convert("RGB"))
