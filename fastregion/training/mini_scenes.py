"""Training samples of mini from rendered scenes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastregion.models.mini.config import MiniConfig
from fastregion.models.mini.processing import TileCutter
from fastregion.scenes import EVALUATION_SEEDS, SceneRegion, generate_scene, turn_scene
from fastregion.scenes.facts import Facts, grow
from fastregion.scenes.textures import PATTERNS
from fastregion.scenes.wording import Exchange, compare, exchanges
from fastregion.training.mini_data import Sample
from fastregion.training.mini_facts import fact_labels

_TURNS_PER_SCENE = 3
_MAX_REGIONS_PER_TURN = 5
_SEVERAL = 0.9  # how often a turned scene gives a prompt about several regions
_ALIKE = 0.4  # how often two of those regions are chosen for agreeing in a fact
_COMPARISONS = 20  # questions drawn for it; repeats and those without a clear answer are dropped
# How often facts beside colour, pattern, shape, size and place are left out of the sentences.
_LEFT_OUT = {"tone": 0.3, "second": 0.42, "unique": 0.35, "background": 0.38, "edges": 0.1}
_NO_RELATION, _NO_SHAPE_OF_OTHER = 0.46, 0.4
_STAND_IN = 0.6  # how often a sentence about an unknown pattern names one that is not learned


def scene_samples(seed: int, chance: int, config: MiniConfig) -> list[Sample]:
    """The samples of one scene: turned several ways, its regions one by one and some together.

    Args:
        seed: Of the scene.
        chance: Further seed, of wording and of what is left out.
        config: Of the tiles.

    Raises:
        ValueError: ``seed`` is that of an evaluation scene.
    """
    if seed < EVALUATION_SEEDS:
        raise ValueError(f"seed: seeds below {EVALUATION_SEEDS} are for evaluation, got {seed}")
    rng = np.random.default_rng((chance, seed))
    scene = generate_scene(seed)
    samples = []
    for turn in rng.choice(8, _TURNS_PER_SCENE, replace=False):
        turned = turn_scene(scene, int(turn))
        order = rng.permutation(len(turned.regions))[:_MAX_REGIONS_PER_TURN]
        regions = [_worn(turned.regions[k], rng) for k in order]
        cutter = TileCutter(turned.image, config)
        for region in regions:
            facts = _reticent(region.facts, rng)
            unknown = facts.pattern is None and rng.random() < _STAND_IN
            if unknown:
                facts = replace(facts, pattern=str(rng.choice(PATTERNS)))
            texts = exchanges(facts, rng, extra=2)
            samples.append(_sample(cutter, [region], texts, unknown_pattern=unknown))
        if len(regions) > 1 and rng.random() < _SEVERAL:
            several = _several(regions, rng)
            asked = [compare(several, rng) for _ in range(_COMPARISONS)]
            answered = {exchange.prompt: exchange for exchange in asked if exchange is not None}
            if answered:
                samples.append(_sample(cutter, several, list(answered.values())))
    return samples


def _sample(
    cutter: TileCutter,
    regions: Sequence[SceneRegion],
    texts: Sequence[Exchange],
    *,
    unknown_pattern: bool = False,
) -> Sample:
    return Sample(
        tiles=cutter.cut([region.mask for region in regions]),
        facts=tuple(fact_labels(region.facts) for region in regions),
        exchanges=tuple(texts),
        unknown_pattern=unknown_pattern,
    )


def _several(regions: Sequence[SceneRegion], rng: np.random.Generator) -> list[SceneRegion]:
    """Two or three regions; chance alone would seldom pick some that agree."""
    pairs = []
    if rng.random() < _ALIKE:
        fact = str(rng.choice(["color", "pattern", "shape"]))
        words = [getattr(region.facts, fact) for region in regions]
        pairs = [
            pair
            for pair in itertools.combinations(range(len(regions)), 2)
            if words[pair[0]] is not None and words[pair[0]] == words[pair[1]]
        ]
    first = list(pairs[rng.integers(len(pairs))]) if pairs else []
    chosen = [*first, *(k for k in range(len(regions)) if k not in first)]
    chosen = chosen[: 2 if rng.random() < 0.6 else 3]
    return [regions[k] for k in rng.permutation(chosen)]


def _reticent(facts: Facts, rng: np.random.Generator) -> Facts:
    """Leaves out side facts at random, which teaches the model when to be silent.

    Where a fact is left out with probability d, greedy decoding states it only if the model is
    surer of it than about d / (1 - d): a guess is worth less than saying nothing.
    """
    left_out: dict[str, Any] = {
        name: None if isinstance(getattr(facts, name), str) else ()
        for name, chance in _LEFT_OUT.items()
        if getattr(facts, name) and rng.random() < chance
    }
    if facts.relation is not None and rng.random() < _NO_RELATION:
        left_out["relation"] = None
    elif facts.relation is not None and rng.random() < _NO_SHAPE_OF_OTHER:
        left_out["relation"] = (*facts.relation[:2], None)
    return replace(facts, **left_out)


def _worn(region: SceneRegion, rng: np.random.Generator) -> SceneRegion:
    """Now and then grows or shrinks a mask by a pixel: people's masks are not exact."""
    if region.mask.sum() < 500 or rng.random() > 0.2:
        return region
    mask = grow(region.mask, 1) if rng.random() < 0.5 else ~grow(~region.mask, 1)
    return replace(region, mask=mask) if mask.any() else region
