"""Regions that nobody painted: boxes, blobs and patches over whatever a picture holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fastregion.scenes import textures
from fastregion.scenes.facts import Mask, Rgb, grow, measure
from fastregion.scenes.objects import place_outline
from fastregion.scenes.outlines import Outline, Points, soft_blob
from fastregion.scenes.scene import MIN_AREA, MIN_SHAPE_AREA, SIZE_RANGES, SIZE_WEIGHTS, SceneRegion


def unpainted_region(rng: np.random.Generator, image: Rgb) -> SceneRegion | None:
    """A region over whatever is there: a box, an ellipse, a blob, or a patch of similar colour."""
    height, width = image.shape[:2]
    kind = str(rng.choice(["box", "ellipse", "blob", "patch"], p=[0.3, 0.15, 0.2, 0.35]))
    shape: str | None = None
    if kind == "patch":
        mask = _color_patch(rng, image)
        if mask is None:
            return None
    else:
        low, high = SIZE_RANGES[int(rng.choice(5, p=SIZE_WEIGHTS))]
        area = max(float(rng.uniform(low, high)) * height * width, 80.0)
        ratio = float(np.exp(rng.uniform(0, np.log(3))))
        points: Points
        if kind == "box":
            points = np.array([[ratio, 1], [-ratio, 1], [-ratio, -1], [ratio, -1]])
        elif kind == "ellipse":
            angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
            points = np.stack([ratio * np.cos(angle), np.sin(angle)], axis=1)
            shape = "round" if ratio <= 1.1 else "oval" if 1.45 <= ratio <= 2.1 else None
        else:
            points = soft_blob(rng)
        placed = place_outline(
            rng, Outline(shape=shape, points=points), height, width, area, cut=rng.random() < 0.1
        )
        if kind == "box":  # boxes that people draw stand upright
            x0, y0, x1, y1 = placed.bounds
            side = (x1 - x0) / max(y1 - y0, 1e-6)
            side = max(side, 1 / side)
            shape = "square" if side <= 1.08 else "rectangular" if 1.6 <= side <= 2.35 else None
            placed = Outline(shape=shape, points=np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]))
        box = textures.clip_box(placed, height, width)
        if box is None:
            return None
        mask = np.zeros((height, width), bool)
        mask[box[1] : box[3], box[0] : box[2]] = placed.alpha(box) > 0.5
        if mask.sum() < 0.95 * placed.area:
            shape = None
    area_pixels = int(mask.sum())
    if area_pixels < MIN_AREA:
        return None
    facts = measure(image, mask)
    return SceneRegion(
        mask=mask, facts=replace(facts, shape=shape if area_pixels >= MIN_SHAPE_AREA else None)
    )


def _color_patch(rng: np.random.Generator, image: Rgb) -> Mask | None:
    """The pixels near a random point with about its colour: a rough natural segment."""
    height, width = image.shape[:2]
    y, x = int(rng.integers(height)), int(rng.integers(width))
    reach = rng.uniform(0.05, 0.35) * max(height, width)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    wobble = textures.noise(rng, height, width, finest=8, roughness=0.6)
    near = np.hypot(ys - y, xs - x) < reach * (1 + 0.25 * wobble)
    difference = np.abs(image.astype(np.int16) - image[y, x].astype(np.int16)).max(axis=2)
    mask = near & (difference < rng.uniform(30, 90))
    if mask.sum() < max(MIN_AREA * 2, 0.3 * near.sum()):
        return None
    # Close the pores that noise leaves.
    return ~grow(~grow(mask, 1), 1)
