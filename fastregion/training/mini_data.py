"""Training samples for mini: scenes, turned eight ways, as tiles and packed token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fastregion.language import IGNORED_LABEL, Tokenizer
from fastregion.models.mini.captioner import instruction_text
from fastregion.models.mini.config import MiniConfig
from fastregion.models.mini.processing import RegionTiles, TileCutter
from fastregion.scenes import EVALUATION_SEEDS, SceneRegion, generate_scene, turn_scene
from fastregion.scenes.facts import grow
from fastregion.scenes.wording import Exchange, compare, exchanges

_TURNS_PER_SCENE = 4
_MAX_REGIONS_PER_TURN = 5
_SHUFFLE = 600  # samples that wait before one of them is drawn


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt with its regions and several exchanges about them."""

    tiles: RegionTiles
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples with the same number of regions each.

    Several exchanges share the vision prefix of their sample: ``input_ids [B, L]`` holds them one
    after the other, ``segments [B, L]`` says which exchange a token belongs to (0 = padding) and
    ``offsets [B, L]`` its place in it.
    """

    tiles: RegionTiles
    regions_per_prompt: tuple[int, ...]
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
                self._waiting.setdefault(len(sample.tiles.details), []).append(sample)
            self.next_seed += self.stride
        samples = [waiting.pop(int(self.rng.integers(len(waiting)))) for _ in range(batch_size)]
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
                texts = exchanges(region.facts, rng, extra=2)
                yield Sample(tiles=cutter.cut([region.mask]), exchanges=tuple(texts))
            if len(regions) > 1 and rng.random() < 0.3:
                several = regions[: 2 if rng.random() < 0.65 else 3]
                asked = [compare(several, rng) for _ in range(6)]
                answered = tuple(exchange for exchange in asked if exchange is not None)[:4]
                tiles = cutter.cut([region.mask for region in several])
                yield Sample(tiles=tiles, exchanges=answered)


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
        input_ids=padded[0],
        labels=padded[1],
        segments=padded[2],
        offsets=padded[3],
    )
