"""Training URECA as published: the mask encoder on a frozen InternVL2.5, then LoRA on the decoder.

A row is a conversation about one region of a picture, or captions of its regions, of which each is
asked for by the published question. All of its prompts share the picture's tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fastregion.language import IGNORED_LABEL, PackedPrompts
from fastregion.models.patterns import fits, require_fit
from fastregion.models.training_steps import token_loss
from fastregion.models.ureca import UrecaCaptioner
from fastregion.models.ureca.checkpoint import LORA_SCALE
from fastregion.models.ureca.modeling import PromptLayout, UrecaModel
from fastregion.models.ureca.prompts import (
    DEFAULT_INSTRUCTION,
    IMAGE_CONTEXT,
    MASK_CONTEXT,
    conversation_ids,
    place_masks,
)
from fastregion.regions import Region
from fastregion.training.data import BadRow, Record, Turn
from fastregion.training.data.augmentation import python_random, recompress
from fastregion.training.systems.ureca_stages import start_from, train_lora, train_mask_encoder
from fastregion.training.task import Loss, Task
from fastregion.training.texts import readable, region_captions

if TYPE_CHECKING:
    from fastregion.training.recipe import Recipe

__all__ = [
    "Options",
    "UrecaBatch",
    "UrecaSample",
    "UrecaStep",
    "UrecaTask",
    "build_task",
]

_PADDING = 0  # id that batches are filled with, and that is taken for padding wherever it stands


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of URECA's training.

    Attributes:
        stage: 1 trains the mask encoder, 2 LoRA on the decoder.
        num_mask_token: N of a new mask encoder, where the start is InternVL2.5 itself.
        arch: of a new mask encoder.
        max_tiles: most tiles of a picture, where its data set does not say; kept in the model's
            config as ``max_dynamic_patch``.
        hide_zero_ids: as published, padding is told by its id, 0, so that no token looks at another
            one with that id either (``!`` of Qwen2, ``<unk>`` of InternLM2); it is learned
            nevertheless. False: nothing is hidden.
    """

    stage: Literal[1, 2] = 1
    num_mask_token: int = 8
    arch: Literal[2, 3] = 3
    max_tiles: int = 6
    hide_zero_ids: bool = True

    def __post_init__(self) -> None:
        for name in ("num_mask_token", "max_tiles"):
            if getattr(self, name) < 1:
                raise ValueError(f"options.{name}: must be at least 1, got {getattr(self, name)}")


def build_task(recipe: Recipe, options: Options) -> UrecaTask:
    """Build the task of a recipe, with what its stage trains.

    Raises:
        FileNotFoundError, ValueError, NotImplementedError: the start is missing, damaged or of
            another model; settings of LoRA that do not fit the stage or the published files.
    """
    lora = recipe.lora
    if (lora is None) != (options.stage == 1):
        raise ValueError(
            "lora: stage 1 trains the mask encoder alone; leave it out"
            if lora
            else "lora: stage 2 trains low-rank updates; expected their rank, got none"
        )
    if lora is not None and lora.alpha != LORA_SCALE * lora.rank:
        raise ValueError(
            f"lora.alpha: URECA's files are read with {LORA_SCALE} times the rank of {lora.rank}, "
            f"got {lora.alpha:g}"
        )
    if lora is not None and lora.targets:
        raise NotImplementedError(
            "lora.targets: URECA's are all linear layers of the decoder; leave it out"
        )
    captioner = start_from(
        recipe.start_from,
        new=options.stage == 1,
        num_mask_token=options.num_mask_token,
        arch=options.arch,
        seed=recipe.seed,
    )
    if lora is None:
        train_mask_encoder(captioner)
    else:
        train_lora(captioner, rank=lora.rank, dropout=lora.dropout, seed=recipe.seed)
        named = {captioner.layout.published(n): p for n, p in captioner.model.named_parameters()}
        require_fit("lora.also_train", lora.also_train, named)
        for name, parameter in named.items():
            if fits(name, lora.also_train):
                parameter.requires_grad_(True)
    captioner.model.set_gradient_checkpointing(recipe.gradient_checkpointing)
    return UrecaTask(captioner, options)


@dataclass(frozen=True, kw_only=True)
class UrecaSample:
    """Conversations about regions of a picture.

    Attributes:
        tiles: uint8 ``[I, 3, S, S]`` of the picture.
        masks: uint8 ``[M, S, S]``, those of all prompts.
        prompts: rows of I and M in the place of tokens, with labels.
    """

    tiles: Tensor
    masks: Tensor
    prompts: tuple[PromptLayout, ...]


@dataclass(frozen=True, kw_only=True)
class UrecaBatch:
    """Samples one behind the other.

    Attributes:
        tiles: uint8 ``[I, 3, S, S]``, those of all samples.
        masks: uint8 ``[M, S, S]``, those of all samples.
        prompts: rows of I and M in the place of tokens, with labels.
        visible: bool ``[total_tokens]``, False for tokens that none looks at; None for all.
    """

    tiles: Tensor
    masks: Tensor
    prompts: tuple[PromptLayout, ...]
    visible: Tensor | None

    def to(self, device: torch.device | str) -> UrecaBatch:
        """Move the tensors."""
        return replace(
            self,
            tiles=self.tiles.to(device),
            masks=self.masks.to(device),
            visible=None if self.visible is None else self.visible.to(device),
        )


class UrecaStep(nn.Module):
    """The loss of a batch: cross entropy of the answers' tokens.

    Args:
        model: what is trained.
    """

    def __init__(self, model: UrecaModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: UrecaBatch) -> Loss:
        """The sum over the tokens of all answers, and their number."""
        prompts = self.prompts(batch)
        return Loss(*token_loss(self.model.language_model, prompts, batch.visible))

    def prompts(self, batch: UrecaBatch) -> PackedPrompts:
        """What the decoder reads, differentiable in what is trained."""
        model = self.model
        image_tokens = model.embed_tiles(batch.tiles)
        seen = None
        if model.config.arch == 2:  # each mask tile goes together with the picture's
            seen = image_tokens[_tiles_of_masks(batch.prompts)]
        mask_tokens = model.embed_masks(batch.masks, seen)
        return model.pack(batch.prompts, image_tokens, mask_tokens)


def _tiles_of_masks(prompts: Sequence[PromptLayout]) -> list[int]:
    """For each mask tile the row of the picture's tile in its place."""
    return [
        prompt.image[index % len(prompt.image)]
        for prompt in prompts
        for index in range(len(prompt.masks))
    ]


def _conversation(turns: Sequence[Turn], num_regions: int) -> list[dict[str, str]]:
    """As the published rows have it; masks go behind the image where a row does not place them."""
    found = [{"from": turn.speaker, "value": turn.text} for turn in turns]
    first = next((turn for turn in found if turn["from"] == "human"), None)
    if first is not None:
        first["value"] = place_masks(first["value"], num_regions)
    return found


class UrecaTask(Task):
    """Captions of regions, each unique in its picture.

    Args:
        captioner: what is trained; all of it, until parameters are frozen.
        options: see there.
    """

    captioner: UrecaCaptioner
    step: UrecaStep

    def __init__(self, captioner: UrecaCaptioner, options: Options | None = None) -> None:
        self.captioner, self.options = captioner, options or Options()
        self.step = UrecaStep(captioner.model)
        most = self.options.max_tiles
        captioner.config = replace(captioner.config, max_dynamic_patch=most)
        self._tiling = replace(captioner.tiling, max_num=most)

    def sample(self, record: Record, rng: np.random.Generator) -> UrecaSample:
        """Cut tiles, write the prompts; of several captions of a region, one is drawn.

        Raises:
            BadRow: no region, no text, a conversation that does not fit its regions, or one that is
                too long to have an answer in it; a region of another size than the picture.
        """
        image, regions = record.image(), record.regions()
        for region in regions:
            if region.size != image.shape[:2]:
                raise BadRow(
                    f"mask: expected shape {image.shape[:2]} to match the image, got {region.size}",
                    "size mismatch",
                )
        tiling = self._tiling
        if record.max_tiles is not None:
            tiling = replace(tiling, max_num=record.max_tiles)
        tiles = tiling.image(image)
        if record.jpeg_augmentation:
            draws = python_random(rng)
            tiles = torch.stack(
                [
                    torch.from_numpy(recompress(tile.permute(1, 2, 0).numpy(), draws))
                    for tile in tiles
                ]
            ).permute(0, 3, 1, 2)
        masks: list[Tensor] = []
        prompts = []
        for conversation, about in self._conversations(record, regions, rng):
            first = sum(map(len, masks))
            masks += [tiling.mask(region) for region in about]
            counts = [len(mask) for mask in masks[-len(about) :]]
            ids, labels = self._tokens(conversation, len(tiles), counts)
            rows = range(first, first + sum(counts))
            prompts.append(
                PromptLayout(input_ids=ids, image=range(len(tiles)), masks=rows, labels=labels)
            )
        return UrecaSample(tiles=tiles, masks=torch.cat(masks), prompts=tuple(prompts))

    def _conversations(
        self, record: Record, regions: Sequence[Region], rng: np.random.Generator
    ) -> Iterator[tuple[list[dict[str, str]], Sequence[Region]]]:
        """The dialogues of a row, and the regions of each."""
        if not regions:
            raise BadRow("mask: expected a region, got none", "empty mask")
        if record.turns:
            if len(regions) > 1 and not self.captioner.config.multi_region:
                raise BadRow(
                    f"mask: expected one region to a conversation, got {len(regions)}; the model's "
                    "multi_region allows more",
                    "too many regions",
                )
            yield _conversation(record.turns, len(regions)), regions
            return
        asked = Turn(speaker="human", text=DEFAULT_INSTRUCTION)
        for region, answer in zip(regions, region_captions(record, rng), strict=True):
            yield _conversation([asked, Turn(speaker="gpt", text=answer)], 1), [region]

    def _tokens(
        self, conversation: Sequence[dict[str, str]], num_tiles: int, mask_tiles: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Ids and labels; there is a place for every token, and something to learn."""
        config, model = self.captioner.config, self.captioner.model
        if not all(turn["value"].strip() for turn in conversation if turn["from"] == "gpt"):
            raise BadRow("conversations: expected text in every answer, got none", "no text")
        wanted = num_tiles * config.tokens_per_tile
        counts = [count * config.num_mask_token for count in mask_tiles]
        try:
            ids, labels = conversation_ids(
                conversation,
                self.captioner.tokenizer,
                system=config.system,
                image_tokens=wanted,
                mask_tokens=counts,
            )
        except ValueError as error:
            raise BadRow(str(error)) from error
        for name, token, expected in (
            ("image", model.image_id, wanted),
            ("mask", model.mask_id, sum(counts)),
        ):
            if ids.count(token) != expected:
                raise BadRow(
                    f"conversations: expected {expected} places for {name} tokens within "
                    f"{len(ids)} tokens, got {ids.count(token)}"
                )
        if all(label == IGNORED_LABEL for label in labels):
            raise BadRow(
                f"conversations: expected an answer within {len(ids)} tokens, got none", "no text"
            )
        return ids, labels

    def num_tokens(self, sample: UrecaSample) -> int:
        """Tokens of all prompts, places of image and masks included."""
        return sum(len(prompt.input_ids) for prompt in sample.prompts)

    def collate(self, samples: Sequence[UrecaSample]) -> UrecaBatch:
        """Put samples one behind the other."""
        prompts = []
        first_tile = first_mask = 0
        for sample in samples:
            for prompt in sample.prompts:
                prompts.append(
                    replace(
                        prompt,
                        image=[first_tile + row for row in prompt.image],
                        masks=[first_mask + row for row in prompt.masks],
                    )
                )
            first_tile, first_mask = first_tile + len(sample.tiles), first_mask + len(sample.masks)
        ids = torch.tensor([token for prompt in prompts for token in prompt.input_ids])
        hidden = self.options.hide_zero_ids and bool((ids == _PADDING).any())
        return UrecaBatch(
            tiles=torch.cat([sample.tiles for sample in samples]),
            masks=torch.cat([sample.masks for sample in samples]),
            prompts=tuple(prompts),
            visible=ids != _PADDING if hidden else None,
        )

    def decoded(self, sample: UrecaSample) -> str:
        """The conversations, one below the other."""
        model, tokenizer = self.captioner.model, self.captioner.tokenizer
        places = {model.image_id: IMAGE_CONTEXT, model.mask_id: MASK_CONTEXT}
        decode = partial(tokenizer.decode, skip_special_tokens=False)
        return "\n".join(
            readable(prompt.input_ids, prompt.labels or (), decode, places)
            for prompt in sample.prompts
        )

    def save(self, folder: Path) -> None:
        """Write the model as published: LoRA layers beside the weights, which loading folds."""
        self.captioner.save_pretrained(folder)
