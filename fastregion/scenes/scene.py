"""A scene and its regions."""

from __future__ import annotations

from dataclasses import dataclass

from fastregion.scenes.facts import Facts, Mask, Rgb

EVALUATION_SEEDS = 10_000
"""Scenes with a smaller seed are for evaluation only."""

MIN_AREA = 40  # pixels of a region worth asking about
MIN_SHAPE_AREA = 90  # pixels below which an outline cannot be told
SIZE_RANGES = ((0.0012, 0.0047), (0.0055, 0.028), (0.033, 0.115), (0.13, 0.33), (0.38, 0.6))
"""Areas as shares of the image, clearly inside each of the five size words."""
SIZE_WEIGHTS = (0.14, 0.26, 0.32, 0.2, 0.08)


@dataclass(frozen=True, kw_only=True)
class SceneRegion:
    """One region of a scene: its visible mask ``[H, W]`` bool and what is true of it."""

    mask: Mask
    facts: Facts


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture ``[H, W, 3]`` uint8 and its regions."""

    image: Rgb
    regions: tuple[SceneRegion, ...]
    lookalike: bool  # holds several regions of one colour and shape
