"""Training samples for mini: scenes, turned eight ways, as tiles and packed token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastregion.language import IGNORED_LABEL, Tokenizer
from fastregion.models.mini.captioner import instruction_text
from fastregion.models.mini.config import MiniConfig
from fastregion.models.mini.processing import RegionTiles, TileCutter
from fastregion.scenes import EVALUATION_SEEDS, SceneRegion, generate_scene, turn_scene
from fastregion.scenes.facts import Facts, grow
from fastregion.scenes.wording import Exchange, compare, exchanges
from fastregion.training.mini_facts import fact_labels

_TURNS_PER_SCENE = 2
_MAX_REGIONS_PER_TURN = 5
_SHUFFLE = 2000  # samples that wait before one of them is drawn
# How often facts beside colour, pattern, shape, size and place are left out of the sentences.
_LEFT_OUT = {"tone": 0.3, "second": 0.42, "unique": 0.35, "background": 0.38, "edges": 0.1}
_NO_RELATION, _NO_SHAPE_OF_OTHER = 0.46, 0.4
_STAY = 0.25  # chance that a drawn sample goes on waiting: rendering takes its time


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt with its regions, their facts as classes, and several exchanges about them."""

    tiles: RegionTiles
    facts: tuple[list[int], ...]
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples with the same number of regions each, whose facts are ``facts [R, F]``.

    Several exchanges share the vision prefix of their sample: ``input_ids [B, L]`` holds them one
    after the other, ``segments [B, L]`` says which exchange a token belongs to (0 = padding) and
    ``offsets [B, L]`` its place in it.
    """

    tiles: RegionTiles
    regions_per_prompt: tuple[int, ...]
    facts: Tensor
    input_ids: Tensor
    labels: Tensor
    segments: Tensor
    offsets: Tensor


class SampleStream:
    """An endless stream of batches from the scenes of one worker's seeds."""

    def __init__(
        self, tokenizer: Tokenizer, config: MiniConfig, *, first_seed: int, stride: int
    ) -> None:
        if first_seed < EVALUATION_SEEDS:
            raise ValueError(
                f"first_seed: seeds below {EVALUATION_SEEDS} are for evaluation, got {first_seed}"
            )
        self.tokenizer = tokenizer
        self.config = config
        self.next_seed = first_seed
        self.stride = stride
        self.rng = np.random.default_rng(first_seed)
        self._waiting: dict[int, list[Sample]] = {}

    def batch(self, num_regions: int, batch_size: int) -> Batch:
        """Draws a batch of samples with ``num_regions`` regions each."""
        waiting = self._waiting.setdefault(num_regions, [])
        while len(waiting) < max(batch_size, _SHUFFLE if num_regions == 1 else 0):
            for sample in self._samples(self.next_seed):
                queue = self._waiting.setdefault(len(sample.tiles.details), [])
                if len(queue) < 2 * _SHUFFLE:  # prompts about several regions are asked for less
                    queue.append(sample)
            self.next_seed += self.stride
        drawn = self.rng.permutation(len(waiting))[:batch_size]
        samples = [waiting[k] for k in drawn]
        used = {int(k) for k in drawn[self.rng.random(batch_size) >= _STAY]}
        self._waiting[num_regions] = [s for k, s in enumerate(waiting) if k not in used]
        return collate(samples, self.tokenizer, self.config.eos_token_id)

    def _samples(self, seed: int) -> Iterator[Sample]:
        rng = self.rng
        scene = generate_scene(seed)
        for turn in rng.choice(8, _TURNS_PER_SCENE, replace=False):
            turned = turn_scene(scene, int(turn))
            order = rng.permutation(len(turned.regions))[:_MAX_REGIONS_PER_TURN]
            regions = [_worn(turned.regions[k], rng) for k in order]
            cutter = TileCutter(turned.image, self.config)
            for region in regions:
                texts = exchanges(_reticent(region.facts, rng), rng, extra=2)
                yield _sample(cutter, [region], texts)
            if len(regions) > 1 and rng.random() < 0.3:
                several = regions[: 2 if rng.random() < 0.65 else 3]
                asked = [compare(several, rng) for _ in range(6)]
                answered = [exchange for exchange in asked if exchange is not None]
                yield _sample(cutter, several, answered[:4])


def _sample(
    cutter: TileCutter, regions: Sequence[SceneRegion], texts: Sequence[Exchange]
) -> Sample:
    return Sample(
        tiles=cutter.cut([region.mask for region in regions]),
        facts=tuple(fact_labels(region.facts) for region in regions),
        exchanges=tuple(texts),
    )


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


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, eos_token_id: int) -> Batch:
    """Joins samples and packs the exchanges of each behind its prefix."""
    rows = []
    for sample in samples:
        ids: list[int] = []
        labels: list[int] = []
        segments: list[int] = []
        offsets: list[int] = []
        for number, (prompt, answer) in enumerate(sample.exchanges, start=1):
            asked = tokenizer.encode(instruction_text(prompt))
            answered = [*tokenizer.encode(answer), eos_token_id]
            ids += asked + answered
            labels += [IGNORED_LABEL] * len(asked) + answered
            segments += [number] * (len(asked) + len(answered))
            offsets += range(len(asked) + len(answered))
        rows.append((ids, labels, segments, offsets))
    length = max(max(len(row[0]) for row in rows), 1)
    padded = [
        torch.tensor([row[k] + [fill] * (length - len(row[k])) for row in rows])
        for k, fill in enumerate((0, IGNORED_LABEL, 0, 0))
    ]
    return Batch(
        tiles=RegionTiles.concatenate([sample.tiles for sample in samples]),
        regions_per_prompt=tuple(len(sample.tiles.details) for sample in samples),
        facts=torch.tensor([labels for sample in samples for labels in sample.facts]),
        input_ids=padded[0],
        labels=padded[1],
        segments=padded[2],
        offsets=padded[3],
    )
