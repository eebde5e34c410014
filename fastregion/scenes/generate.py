"""Rendered scenes with exact ground truth, deterministic for a seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fastregion.scenes import textures
from fastregion.scenes.facts import Mask, Rgb, geometry_facts, measure
from fastregion.scenes.objects import Painted, paint_lookalikes, paint_objects
from fastregion.scenes.relations import relation_of, tell_apart
from fastregion.scenes.scene import MIN_AREA, MIN_SHAPE_AREA, Scene, SceneRegion
from fastregion.scenes.unpainted import unpainted_region


def generate_scene(seed: int, *, lookalikes: int | None = None) -> Scene:
    """Renders the scene of a seed.

    Args:
        seed: Any integer >= 0; the same seed gives the same bits.
        lookalikes: None for scenes of all kinds, a few with two to four objects of one shape and
            colour; or how many such objects there are, at least 2 and at most 12.

    Returns:
        A scene of 128 to 1,024 pixels a side with at least one region.

    Raises:
        ValueError: ``lookalikes`` out of range.
    """
    if lookalikes is not None and not 2 <= lookalikes <= 12:
        raise ValueError(f"lookalikes: expected 2..12, got {lookalikes}")
    rng = np.random.default_rng((20_25, seed))
    while True:
        scene = _attempt(rng, lookalikes)
        if len(scene.regions) >= (lookalikes or 1):
            return scene


def _attempt(rng: np.random.Generator, lookalikes: int | None) -> Scene:
    height, width = _sample_size(rng)
    canvas = textures.background(rng, height, width)
    lookalike = bool(rng.random() < 0.18) or lookalikes is not None
    objects = paint_lookalikes(rng, canvas, lookalikes) if lookalike else paint_objects(rng, canvas)
    if rng.random() < 0.4:
        canvas = textures.light(rng, canvas)
    image = textures.expose(rng, canvas)

    visible: list[Mask] = []
    covered = np.zeros((height, width), bool)
    for item in reversed(objects):
        visible.insert(0, item.mask & ~covered)
        covered |= item.mask
    regions = [
        _describe_painted(image, objects, visible, k)
        for k in range(len(objects))
        if visible[k].sum() >= max(MIN_AREA, 0.3 * objects[k].mask.sum())
    ]
    if not lookalike and rng.random() < 0.35:
        for _ in range(int(rng.integers(1, 3))):
            region = unpainted_region(rng, image)
            if region is not None:
                regions.append(region)
    return Scene(image=image, regions=tell_apart(regions), lookalike=lookalike)


def turn_scene(scene: Scene, turn: int) -> Scene:
    """One of the eight ways to turn and mirror a scene, with the facts of the turned picture.

    Args:
        scene: Any scene.
        turn: 0..7; bit 0 mirrors left and right, bit 1 top and bottom, bit 2 transposes.
    """

    def turned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if turn & 4:
            array = array.swapaxes(0, 1)
        return np.ascontiguousarray(array[:: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1])

    regions = []
    for region in scene.regions:
        mask = turned(region.mask)
        facts = replace(region.facts, unique=None, **geometry_facts(mask))
        regions.append(SceneRegion(mask=mask, facts=facts))
    return replace(scene, image=turned(scene.image), regions=tell_apart(regions))


def _sample_size(rng: np.random.Generator) -> tuple[int, int]:
    longer = round(np.exp(rng.uniform(np.log(128), np.log(540))))
    if rng.random() < 0.07:
        longer = int(rng.integers(540, 1025))
    shorter = max(int(longer * rng.uniform(0.5, 1.0)), 128)
    return (shorter, longer) if rng.random() < 0.6 else (longer, shorter)


def _describe_painted(
    image: Rgb, objects: list[Painted], visible: list[Mask], k: int
) -> SceneRegion:
    item, mask = objects[k], visible[k]
    facts = measure(image, mask)
    area = int(mask.sum())
    whole = area / item.mask.sum() * item.complete
    shown = whole >= 0.94 and area >= MIN_SHAPE_AREA
    pattern = item.pattern if area >= 0.5 * item.mask.sum() else None
    if pattern == "plain":  # shading and neighbours' edges are no second colour
        facts = replace(facts, second=None)
    hole = bool(item.outline.holes) and item.outline.shape != "ring-shaped"
    return SceneRegion(
        mask=mask,
        facts=replace(
            facts,
            shape=item.outline.shape if shown else None,
            hole=hole and shown and area >= 300,
            pattern=pattern,
            relation=relation_of(image, objects, visible, k),
        ),
    )
