"""How regions of a scene stand to each other, and what tells look-alikes apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fastregion.scenes.facts import Mask, Rgb, centroid, crop_box, grow, measure, ring_width
from fastregion.scenes.objects import Painted
from fastregion.scenes.scene import SceneRegion


def relation_of(
    image: Rgb, objects: list[Painted], visible: list[Mask], k: int
) -> tuple[str, str, str | None] | None:
    """How region k stands to the one other region that most of its surroundings belong to."""
    mask, whole = visible[k], objects[k].mask
    margin = ring_width(mask)
    x0, y0, x1, y1 = crop_box(mask, margin)
    inner = mask[y0:y1, x0:x1]
    ring = grow(inner, margin) & ~inner
    total = int(ring.sum())
    if total < 12:
        return None
    for j in range(k - 1, -1, -1):
        share = int((ring & visible[j][y0:y1, x0:x1]).sum()) / total
        hidden = int((whole & objects[j].mask).sum())
        if share < 0.2 or hidden < 30:
            continue
        kind = "inside" if share >= 0.97 and hidden >= 0.99 * whole.sum() else "in front of"
        if kind == "in front of" and share > 0.85:
            return None
        facts = measure(image, visible[j])
        other = objects[j]
        unhidden = visible[j].sum() >= 0.94 * other.mask.sum() and other.complete >= 0.94
        shape = (
            other.outline.shape
            if unhidden or (kind == "inside" and other.complete >= 0.94)
            else None
        )
        return (kind, facts.color, shape)
    return None


def tell_apart(regions: Sequence[SceneRegion]) -> tuple[SceneRegion, ...]:
    """Adds what makes a region unique where others share its colour and shape."""
    words = {2: "two", 3: "three", 4: "four"}
    groups: dict[tuple[str, str], list[int]] = {}
    for k, region in enumerate(regions):
        if region.facts.shape is not None:
            groups.setdefault((region.facts.color, region.facts.shape), []).append(k)
    result = list(regions)
    for (color, shape), members in groups.items():
        if len(members) not in words:
            continue
        of = f"of {words[len(members)]} {color} {shape} regions"
        xs, ys = np.array([centroid(regions[k].mask) for k in members]).T
        areas = np.array([regions[k].mask.sum() for k in members], dtype=np.float64)
        for index, k in enumerate(members):
            phrase = _superlative(xs, ys, areas, index)
            if phrase is not None:
                facts = replace(regions[k].facts, unique=f"{phrase} {of}")
                result[k] = replace(regions[k], facts=facts)
    return tuple(result)


def _superlative(
    xs: npt.NDArray[np.float64],
    ys: npt.NDArray[np.float64],
    areas: npt.NDArray[np.float64],
    index: int,
) -> str | None:
    """The clearest way in which one of several look-alikes leads the others, if any is clear."""
    others = np.arange(len(xs)) != index
    pair = len(xs) == 2
    candidates = [
        ((areas[index] / areas[others].max()) - 1.5, "larger" if pair else "largest"),
        ((areas[others].min() / areas[index]) - 1.5, "smaller" if pair else "smallest"),
        ((xs[others].min() - xs[index]) * 4 - 0.3, "leftmost"),
        ((xs[index] - xs[others].max()) * 4 - 0.3, "rightmost"),
        ((ys[others].min() - ys[index]) * 4 - 0.3, "topmost"),
        ((ys[index] - ys[others].max()) * 4 - 0.3, "bottommost"),
    ]
    lead, phrase = max(candidates)
    return phrase if lead > 0 else None
