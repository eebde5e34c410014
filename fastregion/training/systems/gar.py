"""Training GAR as published: dialogues about the regions of a picture, all answers learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastregion.models.gar import GarCaptioner
from fastregion.models.gar.batch import GarBatch, merge
from fastregion.models.gar.preparation import Preparation
from fastregion.models.gar.processing import region_box
from fastregion.models.gar.prompts import (
    ANSWER_HEADER,
    END_OF_TURN,
    IMAGE_TOKEN,
    answer_labels,
    crop_token,
)
from fastregion.regions import Region
from fastregion.training.captioners import load_captioner, low_rank, save_captioner
from fastregion.training.data import BadRow, Record
from fastregion.training.systems.gar_dialogue import make_dialogue
from fastregion.training.systems.token_step import TokenStep
from fastregion.training.task import Task
from fastregion.training.texts import readable

if TYPE_CHECKING:
    from fastregion.training.recipe import Recipe

__all__ = ["GarTask", "Options", "build_task"]

_SMALLEST_SIDE = 10  # pixels; the published training skips smaller pictures


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of GAR's training.

    Attributes:
        max_tiles: largest grid that a picture is cut into; None for the checkpoint's. The
            published training has 16 for GAR-1B and 8 for GAR-8B.
    """

    max_tiles: int | None = None

    def __post_init__(self) -> None:
        if self.max_tiles is not None and self.max_tiles < 1:
            raise ValueError(f"options.max_tiles: must be at least 1, got {self.max_tiles}")


class GarTask(Task):
    """Captions of regions, and dialogues about their relations.

    Args:
        captioner: what is trained; all of it, until parameters are frozen.
        options: see there.
    """

    captioner: GarCaptioner
    step: TokenStep

    def __init__(self, captioner: GarCaptioner, options: Options | None = None) -> None:
        self.captioner = captioner
        if options is not None and options.max_tiles is not None:
            captioner.processor = replace(captioner.processor, max_num_tiles=options.max_tiles)
        self._prepared: Preparation = captioner.preparation
        tokenizer = captioner.tokenizer
        self._header = tokenizer.encode(ANSWER_HEADER)
        self._end = tokenizer.token_id(END_OF_TURN)
        config = captioner.config
        self._placeholders = {config.mllm_config.image_token_id: IMAGE_TOKEN} | {
            token: crop_token(index) for index, token in enumerate(config.crop_tokens_ids)
        }
        self.step = TokenStep(captioner.model, captioner.decoder, captioner.encode)

    def sample(self, record: Record, rng: np.random.Generator) -> GarBatch:
        """Write a dialogue, cut tiles and masks; a batch of one prompt.

        Raises:
            BadRow: a picture below 10 pixels a side, or texts and regions that do not fit; see
                ``make_dialogue``.
        """
        prepared = self._prepared
        dialogue = make_dialogue(record, rng, prepared.block, prepared.config.prompt_numbers)
        image = record.image()
        height, width = image.shape[:2]
        if min(height, width) < _SMALLEST_SIDE:
            raise BadRow(
                f"image: must have at least {_SMALLEST_SIDE} pixels a side, got {width} x {height}"
            )
        regions = record.regions() if dialogue.regions else ()
        named = {name: regions[index] for name, index in dialogue.regions.items()}
        for region in named.values():
            if region.size != (height, width):
                raise BadRow(
                    f"mask: expected shape {(height, width)} to match the image, got {region.size}",
                    "size mismatch",
                )
        batch = prepared.assembly(*prepared.tiles(image))
        batch.look([*named.values()] or [Region.from_mask(np.ones((height, width), bool))])
        ids = prepared.input_ids(dialogue.turns, batch, answered=True)
        labels = answer_labels(ids, self._header, self._end)
        boxes = {name: region_box(region) for name, region in named.items()}
        batch.add(ids, boxes, labels)
        return batch.finish({})

    def num_tokens(self, sample: GarBatch) -> int:
        """Length of the dialogue with its image tokens."""
        return len(sample.prompts[0].input_ids)

    def collate(self, samples: Sequence[GarBatch]) -> GarBatch:
        """Samples one behind the other."""
        return merge(samples)

    def decoded(self, sample: GarBatch) -> str:
        """The dialogue as it is read and learned."""
        (prompt,) = sample.prompts
        assert prompt.labels is not None

        def decode(ids: Sequence[int]) -> str:
            return self.captioner.tokenizer.decode(ids, skip_special_tokens=False)

        return readable(prompt.input_ids, prompt.labels, decode, self._placeholders)

    def save(self, folder: Path) -> None:
        """Write the model under the published names, with config, vocabulary and processor."""
        save_captioner(self.captioner, folder)


def build_task(recipe: Recipe, options: Options) -> GarTask:
    """A task for the checkpoint that ``recipe.start_from`` names."""
    captioner = load_captioner(recipe, GarCaptioner)
    captioner.model.set_gradient_checkpointing(recipe.gradient_checkpointing)
    low_rank(captioner, recipe.lora)
    return GarTask(captioner, options)
