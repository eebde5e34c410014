"""Batches of rendered scenes without end, that can be taken up again at any of them.

Scenes are rendered block by block, and the samples of a block are shuffled: what is in a batch
depends on the seed, the process and the numbers of block and batch only. The state of the stream is
those two numbers; a resumed run renders its block once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from fastregion.language import Tokenizer
from fastregion.models.mini.config import MiniConfig
from fastregion.scenes import EVALUATION_SEEDS
from fastregion.training.batches import Loading
from fastregion.training.mini_data import Batch, Sample, collate, prompt_tokens
from fastregion.training.mini_scenes import scene_samples
from fastregion.training.stopping import end_with_parent, ignore_signals

__all__ = ["SceneBatch", "SceneBatches"]

_SCENES_PER_BLOCK = 96  # about 1,100 samples, 140 MB
_SEEDS_PER_RUN = 100_000_000  # further apart than any run gets
_SMALLEST = 0.5  # of a full batch; what is left over of a block and smaller is not used


@dataclass(frozen=True, kw_only=True)
class SceneBatch:
    """A batch, and how much is in it; the stream is one endless epoch."""

    batch: Batch
    samples: int
    tokens: int
    epoch: int = 0


class SceneBatches:
    """The batches of one process; prompts of a batch are about the same number of regions each.

    Args:
        tokenizer: Of the captioner.
        config: Of the captioner.
        loading: Seed, process, workers, and how many regions a batch has.
        scenes_per_block: Scenes that are rendered and shuffled together.

    Raises:
        ValueError: ``loading`` asks for batches by tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: MiniConfig,
        loading: Loading,
        *,
        scenes_per_block: int = _SCENES_PER_BLOCK,
    ) -> None:
        if loading.batch_size is None:
            raise ValueError("batch_tokens: batches of scenes are filled by batch_size")
        self._tokenizer, self._config, self._loading = tokenizer, config, loading
        self._scenes = scenes_per_block
        self._batch_size = loading.batch_size
        self._block, self._position = 0, 0
        self._pool = (
            ProcessPoolExecutor(loading.num_workers, get_context("spawn"), _start_worker)
            if loading.num_workers
            else None
        )

    def __iter__(self) -> Iterator[SceneBatch]:
        ahead = self._render(self._block)
        while True:
            batches = self._shuffled(self._block, ahead)
            # Workers render the next block while this one is trained on.
            ahead = self._render(self._block + 1)
            while self._position < len(batches):
                samples = batches[self._position]
                self._position += 1
                yield SceneBatch(
                    batch=collate(samples, self._tokenizer, self._config),
                    samples=len(samples),
                    tokens=sum(
                        prompt_tokens(sample, self._tokenizer, self._config) for sample in samples
                    ),
                )
            self._block, self._position = self._block + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The numbers of the block and of the next batch in it, and what they go with."""
        return {"block": self._block, "position": self._position, **self._belongs_to()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a stream stood.

        Raises:
            ValueError: that stream had other settings.
        """
        for key, value in self._belongs_to().items():
            if state[key] != value:
                raise ValueError(f"{key}: the run began with {state[key]}, got {value}")
        self._block, self._position = state["block"], state["position"]

    def batches_per_epoch(self) -> int:
        """Raises ValueError: there is always another scene."""
        raise ValueError("epochs: rendered scenes have no end; give steps or minutes")

    def close(self) -> None:
        """Ends the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _belongs_to(self) -> dict[str, int]:
        return {
            "seed": self._loading.seed,
            "num_processes": self._loading.num_processes,
            "batch_size": self._batch_size,
            "scenes_per_block": self._scenes,
        }

    def _render(self, block: int) -> Iterator[list[Sample]]:
        """Samples of each scene of a block, in order; made by the workers if there are any."""
        loading = self._loading
        number = block * loading.num_processes + loading.process
        first = EVALUATION_SEEDS + loading.seed * _SEEDS_PER_RUN + number * self._scenes
        seeds = range(first, first + self._scenes)
        make = partial(scene_samples, chance=loading.seed, config=self._config)
        return map(make, seeds) if self._pool is None else self._pool.map(make, seeds)

    def _shuffled(self, block: int, scenes: Iterator[list[Sample]]) -> list[list[Sample]]:
        """The batches of a block."""
        loading = self._loading
        rng = np.random.default_rng((loading.seed, loading.process, block))
        by_regions: dict[int, list[Sample]] = {}
        for samples in scenes:
            for sample in samples:
                by_regions.setdefault(len(sample.facts), []).append(sample)
        batches = []
        for regions, samples in sorted(by_regions.items()):
            # A prompt about several regions is longer, and each of them has its tiles.
            size = max(round(self._batch_size / (1.5 * regions)), 1) if regions > 1 else None
            size = size or self._batch_size
            mixed = [samples[k] for k in rng.permutation(len(samples))]
            cut = [mixed[start : start + size] for start in range(0, len(mixed), size)]
            batches += [batch for batch in cut if len(batch) >= _SMALLEST * size]
        return [batches[k] for k in rng.permutation(len(batches))]


def _start_worker() -> None:
    ignore_signals()
    end_with_parent()
    torch.set_num_threads(1)
