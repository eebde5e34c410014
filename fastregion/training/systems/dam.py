"""Training DAM as its paper says: one region at a time, from its crop and the whole picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from fastregion.images import RgbImage
from fastregion.language import IGNORED_LABEL
from fastregion.models.dam import DamCaptioner
from fastregion.models.dam.captioner import DamBatch, merge
from fastregion.models.dam.modeling import PromptLayout
from fastregion.models.dam.processing import full_view, views
from fastregion.models.dam.prompts import (
    DEFAULT_INSTRUCTION,
    IMAGE_TAG,
    IMAGE_TOKEN_ID,
    dialogue_ids,
    image_query,
    without_name,
)
from fastregion.regions import Region
from fastregion.training.captioners import load_captioner, low_rank, save_captioner
from fastregion.training.data import BadRow, Record
from fastregion.training.data.augmentation import class_name_prompt, dam_prompt, python_random
from fastregion.training.systems.token_step import TokenStep
from fastregion.training.task import Task
from fastregion.training.texts import question_turns, readable, region_captions

if TYPE_CHECKING:
    from fastregion.training.recipe import Recipe

__all__ = ["DamTask", "Options", "build_task"]

_NAME = "<Prompt"  # the beginning of what rows about several regions call them


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of DAM's training.

    Attributes:
        vary_prompts: ask for a number of words or sentences in some of the prompts, as DAM-3B was
            trained. False: always ``Describe the masked region in detail.``
        class_names: say in half of the prompts what the region is, as the variant that labels
            further pictures was trained.
        regions_per_sample: the most regions of a row that one sample has; of a row with more,
            others are drawn every time.
    """

    vary_prompts: bool = True
    class_names: bool = False
    regions_per_sample: int = 8

    def __post_init__(self) -> None:
        if self.regions_per_sample < 1:
            raise ValueError(
                f"options.regions_per_sample: must be at least 1, got {self.regions_per_sample}"
            )


class DamTask(Task):
    """Captions of regions, each a prompt of its own, and dialogues about one region or a picture.

    Args:
        captioner: what is trained; all of it, until parameters are frozen.
        options: see there.
    """

    captioner: DamCaptioner
    step: TokenStep

    def __init__(self, captioner: DamCaptioner, options: Options | None = None) -> None:
        self.captioner, self.options = captioner, options or Options()
        self._config, self._tokenizer = captioner.config, captioner.tokenizer
        self._template = captioner.template
        self.step = TokenStep(captioner.model, captioner.decoder, captioner.encode)

    def sample(self, record: Record, rng: np.random.Generator) -> DamBatch:
        """Draw regions and prompts, cut views; a batch of one prompt for each region.

        Raises:
            BadRow: texts and regions that do not fit, or a text so long that nothing is left to
                learn of it.
        """
        written = self._dialogues(record, rng)
        image = record.image()
        height, width = image.shape[:2]
        regions = record.regions()
        if not record.num_regions:  # two equal views, as for pictures without a region
            regions = (Region.from_mask(np.ones((height, width), bool)),)
        for region in regions:
            if region.size != (height, width):
                raise BadRow(
                    f"mask: expected shape {(height, width)} to match the image, got {region.size}",
                    "size mismatch",
                )
        return self._batch(image, [(regions[index], turns) for index, turns in written])

    def _dialogues(
        self, record: Record, rng: np.random.Generator
    ) -> list[tuple[int, list[tuple[str, str]]]]:
        """Regions that are asked about, and queries and answers about each."""
        for text in (*(t.text for t in record.turns), *(t for c in record.captions for t in c)):
            if self._template.stop in text:
                raise BadRow(f"text: must not contain the special token {self._template.stop!r}")
        if not record.captions and record.num_regions <= 1:
            said = [without_name(turn.text) for turn in question_turns(record.turns)]
            said[0] = image_query(said[0], joint=self._config.image_video_joint)
            return [(0, list(zip(said[::2], said[1::2], strict=True)))]
        if any(_NAME in turn.text for turn in record.turns):
            raise BadRow("turns: DAM is asked about one region at a time, got names of several")
        captions = region_captions(record, rng)
        count = min(len(captions), self.options.regions_per_sample)
        chosen = list(range(count))
        if count < len(captions):
            chosen = sorted(rng.choice(len(captions), count, replace=False).tolist())
        draws = python_random(rng)
        found = []
        for index in chosen:
            prompt = DEFAULT_INSTRUCTION
            if self.options.vary_prompts:
                prompt = dam_prompt(captions[index], draws)
            if self.options.class_names:
                if len(record.class_names) != record.num_regions:
                    raise BadRow(
                        f"class_names: expected one for each of {record.num_regions} regions, "
                        f"got {len(record.class_names)}"
                    )
                prompt = class_name_prompt(prompt, record.class_names[index], draws)
            query = image_query(prompt, joint=self._config.image_video_joint)
            found.append((index, [(query, captions[index])]))
        return found

    def _batch(
        self, image: RgbImage, written: Sequence[tuple[Region, Sequence[tuple[str, str]]]]
    ) -> DamBatch:
        size = self._config.vision.image_size
        full = full_view(image, size)
        prompts = []
        for frame, (_, turns) in enumerate(written):
            ids, labels = dialogue_ids(turns, self._template, self._tokenizer)
            ids, labels = self._cut(ids, labels)
            prompts.append(PromptLayout(input_ids=ids, frames=(frame,), labels=labels))
        return DamBatch(
            views=torch.stack([views(image, region, size, full) for region, _ in written]),
            prompts=tuple(prompts),
        )

    def _cut(self, ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
        """Without what is beyond the context that the model was configured with."""
        longest = self._config.llm.get("tokenizer_model_max_length")
        if longest is not None:
            most = longest - ids.count(IMAGE_TOKEN_ID) * (self._config.tokens_per_image - 1)
            ids, labels = ids[: max(most, 0)], labels[: max(most, 0)]
        if IMAGE_TOKEN_ID not in ids or all(label == IGNORED_LABEL for label in labels):
            raise BadRow(f"text: no answer is left within {longest} tokens", "no text")
        return ids, labels

    def num_tokens(self, sample: DamBatch) -> int:
        """Length of all prompts with their image tokens."""
        per_image = self._config.tokens_per_image - 1
        return sum(
            len(prompt.input_ids) + len(prompt.frames) * per_image for prompt in sample.prompts
        )

    def collate(self, samples: Sequence[DamBatch]) -> DamBatch:
        """Samples one behind the other."""
        return merge(samples)

    def decoded(self, sample: DamBatch) -> str:
        """The prompts as they are read and learned, each on a line of its own."""

        def decode(ids: Sequence[int]) -> str:
            return self._tokenizer.decode(ids, skip_special_tokens=False)

        return "\n".join(
            readable(prompt.input_ids, prompt.labels or (), decode, {IMAGE_TOKEN_ID: IMAGE_TAG})
            for prompt in sample.prompts
        )

    def save(self, folder: Path) -> None:
        """Write the model with its config and vocabulary, as our single folder."""
        save_captioner(self.captioner, folder)


def build_task(recipe: Recipe, options: Options) -> DamTask:
    """A task for the checkpoint that ``recipe.start_from`` names."""
    captioner = load_captioner(recipe, DamCaptioner)
    captioner.model.set_gradient_checkpointing(recipe.gradient_checkpointing)
    low_rank(captioner, recipe.lora)
    return DamTask(captioner, options)
