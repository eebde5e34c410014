"""Training Pix2Cap as published: views of pictures, targets, and the loss of every decoder layer.

    L = sum over layers of  2 L_class + 5 L_bce + 5 L_dice + 0.1 L_caption

Each loss is normalised within a batch (masks by their number over all processes, captions by their
tokens), so a batch counts as one target: the loop's mean over processes is the published one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from fastregion.language import Tokenizer
from fastregion.models.pix2cap import Pix2CapCaptioner
from fastregion.models.pix2cap.captions import caption_ids, taught_logits
from fastregion.models.pix2cap.modeling import SIZE_DIVISOR, Pix2CapModel
from fastregion.models.pix2cap.output import Pix2CapOutput
from fastregion.models.pix2cap.points import Draw, uniform_points
from fastregion.models.pix2cap.processing import normalise, pad_batch
from fastregion.models.pix2cap.targets import Targets
from fastregion.models.pix2cap.text_encoder import draw_sentences
from fastregion.training.captioners import load_captioner
from fastregion.training.data import BadRow, Record
from fastregion.training.systems.pix2cap_view import View, id_map
from fastregion.training.task import Loss, Task
from fastregion.training.texts import region_captions

if TYPE_CHECKING:
    from fastregion.training.recipe import Recipe

__all__ = ["Options", "Pix2CapBatch", "Pix2CapSample", "Pix2CapStep", "Pix2CapTask", "build_task"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of Pix2Cap's training; the weights of its losses are part of the model's config.

    Attributes:
        image_size: pixels a side of a training view.
    """

    image_size: int = 1024

    def __post_init__(self) -> None:
        if self.image_size < SIZE_DIVISOR:
            raise ValueError(
                f"options.image_size: must be at least {SIZE_DIVISOR}, got {self.image_size}"
            )


@dataclass(frozen=True, kw_only=True)
class Pix2CapSample:
    """A view of a picture and what is to be found in it.

    Attributes:
        image: uint8 ``[3, S, S]``.
        targets: of the view.
        sentences: one drawn for each of the K + 1 classes, "no object" last; a batch has those of
            its first sample.
    """

    image: Tensor
    targets: Targets
    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Pix2CapBatch:
    """Samples side by side.

    Attributes:
        images: uint8 ``[3, H_b, W_b]`` each.
        targets: of each image.
        sentences: as in a sample.
    """

    images: tuple[Tensor, ...]
    targets: tuple[Targets, ...]
    sentences: tuple[str, ...]

    def to(self, device: torch.device | str) -> Pix2CapBatch:
        """Move the tensors."""
        return Pix2CapBatch(
            images=tuple(image.to(device) for image in self.images),
            targets=tuple(targets.to(device) for targets in self.targets),
            sentences=self.sentences,
        )


class Pix2CapStep(nn.Module):
    """The loss of a batch.

    Parts of the model that are frozen drop out as the others do: that is how it was trained.

    Args:
        model: what is trained.
        tokenizer: of captions.
        class_tokenizer: of class names.
    """

    def __init__(
        self, model: Pix2CapModel, tokenizer: Tokenizer, class_tokenizer: Tokenizer
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.class_tokenizer = model, tokenizer, class_tokenizer

    def forward(self, batch: Pix2CapBatch) -> Loss:
        """The sum of all losses, each by itself in ``parts``; see the module for the count."""
        pixels = self.pixel_values(batch.images)
        output: Pix2CapOutput = self.model(
            pixels, self.text_embeddings(batch.sentences), auxiliary=True
        )
        losses = self.model.criterion(
            output, batch.targets, self.taught, self.points(pixels.device)
        )
        total = torch.stack(list(losses.values())).sum().float()
        return Loss(total, torch.ones_like(total), {k: v.detach() for k, v in losses.items()})

    def pixel_values(self, images: Sequence[Tensor]) -> Tensor:
        """Pictures ``[3, H_b, W_b]`` normalised and padded, ``[B, 3, H, W]``."""
        config = self.model.config
        normal = [normalise(image, config.pixel_mean, config.pixel_std) for image in images]
        return pad_batch(normal, SIZE_DIVISOR).to(self.model.predictor.class_embed.dtype)

    def text_embeddings(self, sentences: Sequence[str]) -> Tensor:
        """T, ``[K + 1, dim_proj]``, of one sentence for each class."""
        return self.model.text_encoder.embed_texts(sentences, self.class_tokenizer)

    def taught(self, object_features: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The caption head under teacher forcing, as the criterion asks for it."""
        return taught_logits(self.model.caption_head, object_features, captions, self.tokenizer)

    def points(self, device: torch.device) -> Draw:
        """Where masks are compared."""
        return uniform_points(device)


def build_task(recipe: Recipe, options: Options) -> Pix2CapTask:
    """Build the task of a recipe, whose ``train`` says what is frozen.

    Raises:
        FileNotFoundError, ValueError: the start is missing, damaged or of another model.
        NotImplementedError: LoRA, gradient checkpointing, or FSDP, which cannot shard the scalar
            that class logits are multiplied by.
    """
    for name, given in (
        ("lora", recipe.lora is not None),
        ("gradient_checkpointing", recipe.gradient_checkpointing),
        ("fsdp", recipe.fsdp),
    ):
        if given:
            raise NotImplementedError(f"{name}: Pix2Cap is trained without; leave it out")
    return Pix2CapTask(load_captioner(recipe, Pix2CapCaptioner), options)


class Pix2CapTask(Task):
    """Panoptic segmentation with captions; rows are pictures with segments that do not overlap.

    Args:
        captioner: what is trained; all of it, until parameters are frozen.
        options: see there.
    """

    captioner: Pix2CapCaptioner
    step: Pix2CapStep

    def __init__(self, captioner: Pix2CapCaptioner, options: Options | None = None) -> None:
        self.captioner, self.options = captioner, options or Options()
        self.step = Pix2CapStep(captioner.model, captioner.tokenizer, captioner.class_tokenizer)
        self._classes = {
            category.id: index for index, category in enumerate(captioner.config.categories)
        }

    def sample(self, record: Record, rng: np.random.Generator) -> Pix2CapSample:
        """Draw a view, one caption of each region, and a sentence for each class.

        Regions that the crop loses stay, as empty masks.

        Raises:
            BadRow: no region; a region without category or caption, of a category that is no class
                of the model, of another size than the picture, or that overlaps another.
        """
        classes = self._check(record)
        image = record.image()
        ids = id_map(record.regions(), image.shape[:2])
        view = View.draw(self.options.image_size, rng)
        captions = tuple(region_captions(record, rng))
        sentences = tuple(draw_sentences(self.captioner.config.class_names, rng))
        numbers = np.arange(1, len(classes) + 1, dtype=np.int32)[:, None, None]
        return Pix2CapSample(
            image=torch.from_numpy(view.image(image)).permute(2, 0, 1).contiguous(),
            targets=Targets(
                torch.tensor(classes), torch.from_numpy(view.ids(ids) == numbers), captions
            ),
            sentences=sentences,
        )

    def _check(self, record: Record) -> list[int]:
        """The class of each region, in the order of the model's."""
        count, found = record.num_regions, len(record.category_ids)
        if found != count:
            raise BadRow(f"category_ids: expected one for each of {count} regions, got {found}")
        for category in record.category_ids:
            if category not in self._classes:
                raise BadRow(f"category_ids: {category} is no class of the model")
        return [self._classes[category] for category in record.category_ids]

    def num_tokens(self, sample: Pix2CapSample) -> int:
        """Tokens of all captions."""
        return sum(len(ids) for ids in self._caption_ids(sample))

    def collate(self, samples: Sequence[Pix2CapSample]) -> Pix2CapBatch:
        """Put samples side by side."""
        return Pix2CapBatch(
            images=tuple(sample.image for sample in samples),
            targets=tuple(sample.targets for sample in samples),
            sentences=samples[0].sentences,
        )

    def decoded(self, sample: Pix2CapSample) -> str:
        """A line for each segment: its class, and its caption as it is learned."""
        names, tokenizer = self.captioner.config.class_names, self.captioner.tokenizer
        return "\n".join(
            f"{names[index]}: [[{tokenizer.decode(ids)}]]"
            for index, ids in zip(
                sample.targets.classes.tolist(), self._caption_ids(sample), strict=True
            )
        )

    def _caption_ids(self, sample: Pix2CapSample) -> list[list[int]]:
        return [caption_ids(text, self.captioner.tokenizer) for text in sample.targets.captions]

    def save(self, folder: Path) -> None:
        """Write the model under the published names, with config and vocabularies."""
        self.captioner.save_pretrained(folder)
