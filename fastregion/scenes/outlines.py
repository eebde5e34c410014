"""Outlines of the named shapes: polygons in unit coordinates, rotated, scaled to a wanted area.

The numbers that make a shape deserve its name (axis ratios, hole sizes) are those of the built-in
captioner's vocabulary: oval 1.45-2.1, square at most 1.1, rectangular 1.55-2.4, elongated from 4,
the hole of a ring from 0.45 of its radius.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SHAPES = (
    "round",
    "oval",
    "square",
    "rectangular",
    "triangular",
    "star-shaped",
    "ring-shaped",
    "crescent",
    "cross-shaped",
    "elongated",
    "irregular",
)

Points = npt.NDArray[np.float64]
_SUPERSAMPLE = 3  # alpha of an outline pixel has 9 levels


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A filled polygon with polygonal holes, ``[N, 2]`` (x, y)."""

    shape: str | None
    points: Points
    holes: tuple[Points, ...] = field(default=())

    @property
    def area(self) -> float:
        """Area of the polygon without its holes, in squared units of the points."""
        return _area(self.points) - sum(_area(hole) for hole in self.holes)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) of the points."""
        x0, y0 = self.points.min(axis=0)
        x1, y1 = self.points.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)

    def transformed(self, *, scale: float, angle: float, center: tuple[float, float]) -> Outline:
        """Returns the outline scaled, rotated by ``angle`` radians and moved."""
        cos, sin = np.cos(angle), np.sin(angle)
        matrix = scale * np.array([[cos, sin], [-sin, cos]])
        move = np.array(center)
        return replace(
            self,
            points=self.points @ matrix + move,
            holes=tuple(hole @ matrix + move for hole in self.holes),
        )

    def alpha(self, box: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
        """Coverage of each pixel of ``box`` (x0, y0, x1, y1), in 0..1, ``[y1 - y0, x1 - x0]``."""
        x0, y0, x1, y1 = box
        s = _SUPERSAMPLE
        canvas = Image.new("L", ((x1 - x0) * s, (y1 - y0) * s))
        draw = ImageDraw.Draw(canvas)
        for points, value in ((self.points, 255), *((hole, 0) for hole in self.holes)):
            moved = (points - (x0, y0)) * s - 0.5
            draw.polygon([tuple(point) for point in moved], fill=value)
        return np.asarray(canvas.reduce(s), dtype=np.float32) / 255.0


def _area(points: Points) -> float:
    x, y = points[:, 0], points[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _ellipse(ratio: float, radius: float = 1.0, center: tuple[float, float] = (0, 0)) -> Points:
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    return np.stack(
        [radius * ratio * np.cos(angle) + center[0], radius * np.sin(angle) + center[1]], axis=1
    )


def _rectangle(ratio: float, rounding: float = 0.0) -> Points:
    """A rectangle of height 2; ``rounding`` is the corner radius as a share of half the height."""
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=np.float64)
    if rounding == 0.0:
        return corners * (ratio, 1.0)
    turn = np.linspace(0, np.pi / 2, 6)
    arcs = []
    for k, corner in enumerate(corners):
        middle = corner * (ratio - rounding, 1.0 - rounding)
        angle = turn + k * np.pi / 2
        arcs.append(middle + rounding * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    return np.concatenate(arcs)


def _triangle(rng: np.random.Generator) -> Points:
    """A triangle whose angles are all at least 28 degrees."""
    while True:
        angles = rng.dirichlet((3.0, 3.0, 3.0)) * np.pi
        if angles.min() > np.radians(28):
            around = np.cumsum(2 * angles)  # a central angle is twice the inscribed one
            return np.stack([np.cos(around), np.sin(around)], axis=1)


def _star(rng: np.random.Generator) -> Points:
    tips = int(rng.choice([4, 5, 5, 5, 6, 7, 8]))
    inner = rng.uniform(0.32, 0.5) if tips > 4 else rng.uniform(0.25, 0.4)
    angle = np.arange(2 * tips) * np.pi / tips
    radius = np.where(np.arange(2 * tips) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _crescent(rng: np.random.Generator) -> Points:
    """A disc less a second disc that hides part of it."""
    radius = rng.uniform(0.78, 1.0)
    shift = rng.uniform(0.34, 0.6) + (1.0 - radius) * 0.5
    # The circles x^2 + y^2 = 1 and (x - shift)^2 + y^2 = radius^2 meet at x = cross.
    cross = (1.0 - radius**2 + shift**2) / (2 * shift)
    outer_half = np.arccos(np.clip(cross, -1, 1))
    inner_half = np.arccos(np.clip((cross - shift) / radius, -1, 1))
    outer = np.linspace(outer_half, 2 * np.pi - outer_half, 60)
    inner = np.linspace(2 * np.pi - inner_half, inner_half, 60)
    return np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], axis=1),
            np.stack([shift + radius * np.cos(inner), radius * np.sin(inner)], axis=1),
        ]
    )


def _cross(rng: np.random.Generator) -> Points:
    arm = rng.uniform(0.2, 0.4)
    quarter = np.array([[arm, arm], [arm, 1.0], [-arm, 1.0]])
    turns = [
        np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
        for a in np.arange(4) * np.pi / 2
    ]
    return np.concatenate([quarter @ turn for turn in turns])


def _elongated(rng: np.random.Generator) -> Points:
    """A long band, straight or bent along an arc, with flat, round or pointed ends."""
    ratio = rng.uniform(4.3, 9.0)
    kind = rng.choice(["bar", "ellipse", "bent"])
    if kind == "bar":
        return _rectangle(ratio, float(rng.choice([0.0, 0.6, 0.95])))
    if kind == "ellipse":
        return _ellipse(ratio)
    bend = rng.uniform(0.4, 2.2)  # the angle that the band's middle line turns through
    turn_radius = 2 * ratio / bend
    wave = rng.random() < 0.3
    along = np.linspace(-1, 1, 40)
    if wave:  # an S: the second half bends the other way
        heading = np.abs(along) * bend / 2
        steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * ratio / 20
        middle = np.cumsum(steps, axis=0)
        normal = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    else:
        angle = along * bend / 2
        middle = turn_radius * np.stack([np.sin(angle), 1 - np.cos(angle)], axis=1)
        normal = np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    taper = np.sqrt(np.maximum(1 - np.abs(along) ** float(rng.choice([6, 12, 60])), 0.05))
    half = normal * taper[:, None]
    band = np.concatenate([middle + half, (middle - half)[::-1]])
    centered: Points = band - band.mean(axis=0)
    return centered


def _irregular(rng: np.random.Generator) -> Points:
    """A blob with deep lobes of unequal size."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    while True:
        radius = np.ones_like(angle)
        for frequency in range(2, 8):
            size = rng.uniform(0.0, 0.42) / np.sqrt(frequency / 2)
            radius += size * np.cos(frequency * angle + rng.uniform(0, 2 * np.pi))
        if radius.min() < 0.15 or radius.max() / radius.min() < 2.2:
            continue
        points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        if _area(points) / _area(convex_hull(points)) < 0.85:
            centered: Points = points - points.mean(axis=0)
            return centered


def soft_blob(rng: np.random.Generator) -> Points:
    """A shallow blob between the named shapes: a region that no shape word fits."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    radius = np.ones_like(angle)
    for frequency in range(1, 6):
        size = rng.uniform(0.02, 0.22) / frequency
        radius += size * np.cos(frequency * angle + rng.uniform(0, 2 * np.pi))
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    stretched: Points = points * (rng.uniform(1.0, 2.4), 1.0)
    return stretched


def convex_hull(points: Points) -> Points:
    """The convex hull, counter-clockwise (Andrew's monotone chain)."""
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]

    def chain(sequence: Points) -> list[Points]:
        hull: list[Points] = []
        for point in sequence:
            while len(hull) > 1:
                a, b = hull[-1] - hull[-2], point - hull[-1]
                if a[0] * b[1] - a[1] * b[0] > 0:
                    break
                hull.pop()
            hull.append(point)
        return hull[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def sample_outline(rng: np.random.Generator, shape: str) -> Outline:
    """Draws one outline of the shape, about 2 units across, not rotated.

    Raises:
        ValueError: ``shape`` is none of :data:`SHAPES`.
    """
    holes: tuple[Points, ...] = ()
    if shape == "round":
        points = _ellipse(rng.uniform(1.0, 1.1))
    elif shape == "oval":
        points = _ellipse(rng.uniform(1.47, 2.08))
    elif shape == "square":
        points = _rectangle(rng.uniform(1.0, 1.08), float(rng.choice([0.0, 0.0, 0.12, 0.25])))
    elif shape == "rectangular":
        points = _rectangle(rng.uniform(1.58, 2.38), float(rng.choice([0.0, 0.0, 0.12, 0.25])))
    elif shape == "triangular":
        points = _triangle(rng)
    elif shape == "star-shaped":
        points = _star(rng)
    elif shape == "ring-shaped":
        ratio = float(rng.choice([1.0, rng.uniform(1.0, 1.3)]))
        points = _ellipse(ratio)
        holes = (_ellipse(ratio, rng.uniform(0.46, 0.78)),)
    elif shape == "crescent":
        points = _crescent(rng)
    elif shape == "cross-shaped":
        points = _cross(rng)
    elif shape == "elongated":
        points = _elongated(rng)
    elif shape == "irregular":
        points = _irregular(rng)
    else:
        raise ValueError(f"shape: expected one of {', '.join(SHAPES)}, got {shape!r}")
    return Outline(shape=shape, points=points, holes=holes)


def with_hole(rng: np.random.Generator, outline: Outline) -> Outline:
    """Cuts a round hole of 0.25-0.4 of the half width into the middle of a compact outline."""
    size = float(np.sqrt(_area(outline.points) / np.pi))
    hole = _ellipse(1.0, size * rng.uniform(0.27, 0.4), tuple(outline.points.mean(axis=0)))
    return replace(outline, holes=(hole,))
