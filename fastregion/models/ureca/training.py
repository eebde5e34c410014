"""Training URECA as published: two stages, samples from conversations, one batch of them.

Stage 1 trains the mask encoder alone, on a frozen InternVL2.5, stage 2 LoRA on the decoder alone:

    captioner = new_captioner("InternVL2_5-1B", num_mask_token=8)
    train_mask_encoder(captioner)                 # then a loop over batch_loss(...)
    train_lora(captioner, rank=16)                # the same, then captioner.merge_lora()
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from fastregion.images import RgbImage
from fastregion.language import PackedPrompts, Tokenizer
from fastregion.language.internlm2 import INTERNLM2
from fastregion.language.lora import add_lora
from fastregion.models.checkpoint import read_config
from fastregion.models.ureca.captioner import UrecaCaptioner
from fastregion.models.ureca.checkpoint import LORA_SCALE, UrecaLayout
from fastregion.models.ureca.config import UrecaConfig
from fastregion.models.ureca.modeling import PromptLayout
from fastregion.models.ureca.prompts import NEW_TOKENS, conversation_ids
from fastregion.models.weights import load_weights, stored_dtype
from fastregion.regions import Region

__all__ = [
    "TrainingBatch",
    "TrainingSample",
    "batch_loss",
    "collate",
    "new_captioner",
    "packed_batch",
    "train_lora",
    "train_mask_encoder",
    "training_sample",
]

_DEVIATION = 0.02  # of the new tokens' embeddings (initializer_range)
_PADDING = 0  # id that batches are filled with, and that is taken for padding wherever it stands


def train_mask_encoder(captioner: UrecaCaptioner) -> list[str]:
    """Stage 1: freeze everything but the mask encoder.

    Returns:
        The published names of the parameters that are trained.
    """
    return captioner.freeze("vision_model.*", "mlp1.*", "language_model.*")


def train_lora(
    captioner: UrecaCaptioner, *, rank: int, dropout: float = 0.05, seed: int = 0
) -> list[str]:
    """Stage 2: give the decoder LoRA layers, and freeze everything else, embeddings included.

    The layers and alpha = 2 rank are those of the published training (rank 16, 64 or 128). Call
    ``captioner.merge_lora()`` when trained: decoding and saving want plain layers.

    Args:
        captioner: modified.
        rank: of the updates.
        dropout: in training.
        seed: of their first values.

    Returns:
        Our names of the parameters that are trained, below ``language_model``.

    Raises:
        ValueError: as for ``add_lora``.
    """
    added = add_lora(
        captioner.decoder,
        rank=rank,
        alpha=LORA_SCALE * rank,
        dropout=dropout,
        share_qkv=captioner.config.llm["model_type"] == INTERNLM2,  # there they are one layer
        seed=seed,
    )
    captioner.model.requires_grad_(False)
    for parameter in added:
        parameter.requires_grad_(True)
    return [name for name, p in captioner.model.named_parameters() if p.requires_grad]


@dataclass(frozen=True, kw_only=True)
class TrainingSample:
    """A conversation about a region, ready for :func:`collate`.

    Attributes:
        tiles: uint8 ``[I, 3, S, S]`` of the picture.
        masks: uint8 ``[M, S, S]``.
        input_ids: of the conversation.
        labels: ids that are learned, -100 elsewhere.
    """

    tiles: Tensor
    masks: Tensor
    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Samples side by side.

    Attributes:
        tiles: uint8 ``[I, 3, S, S]``, those of all samples.
        masks: uint8 ``[M, S, S]``, those of all samples.
        prompts: rows of I and M in the place of tokens.
        visible: bool ``[total_tokens]``, False for tokens that none looks at; None for all.
    """

    tiles: Tensor
    masks: Tensor
    prompts: tuple[PromptLayout, ...]
    visible: Tensor | None


def training_sample(
    captioner: UrecaCaptioner,
    image: RgbImage,
    region: Region,
    conversation: Sequence[Mapping[str, str]],
) -> TrainingSample:
    """Cut tiles and write the ids of a conversation.

    Args:
        captioner: its ``max_num`` is the most tiles; the published training has 6.
        image: uint8 RGB ``[H, W, 3]``.
        region: of the same size.
        conversation: turns with ``from`` and ``value``; see ``prompts.conversation_ids``.

    Raises:
        ValueError: a region of another size, or a conversation that does not fit.
    """
    if region.size != image.shape[:2]:
        raise ValueError(
            f"mask: expected shape {image.shape[:2]} to match the image, got {region.size}"
        )
    tiling, config = captioner.tiling, captioner.config
    tiles, masks = tiling.image(image), tiling.mask(region)
    ids, labels = conversation_ids(
        conversation,
        captioner.tokenizer,
        system=config.system,
        image_tokens=len(tiles) * config.tokens_per_tile,
        mask_tokens=[len(masks) * config.num_mask_token],
    )
    return TrainingSample(tiles=tiles, masks=masks, input_ids=ids, labels=labels)


def collate(samples: Sequence[TrainingSample], *, hide_zero_ids: bool = True) -> TrainingBatch:
    """Put samples side by side.

    Args:
        samples: at least one.
        hide_zero_ids: as published, padding is told by its id, 0, so that no token looks at
            another one with that id either (``!`` of Qwen2, ``<unk>`` of InternLM2); labels are
            not touched. False: nothing is hidden.
    """
    prompts = []
    first_tile = first_mask = 0
    for sample in samples:
        prompts.append(
            PromptLayout(
                input_ids=sample.input_ids,
                image=range(first_tile, first_tile + len(sample.tiles)),
                masks=range(first_mask, first_mask + len(sample.masks)),
                labels=sample.labels,
            )
        )
        first_tile, first_mask = first_tile + len(sample.tiles), first_mask + len(sample.masks)
    ids = torch.tensor([id_ for sample in samples for id_ in sample.input_ids])
    return TrainingBatch(
        tiles=torch.cat([sample.tiles for sample in samples]),
        masks=torch.cat([sample.masks for sample in samples]),
        prompts=tuple(prompts),
        visible=ids != _PADDING if hide_zero_ids else None,
    )


def packed_batch(captioner: UrecaCaptioner, batch: TrainingBatch) -> PackedPrompts:
    """The prompts of a batch, differentiable in what is trained."""
    model, device = captioner.model, captioner.device
    image_tokens = model.embed_tiles(batch.tiles.to(device))
    mask_tokens = model.embed_masks(batch.masks.to(device), image_tokens)
    return model.pack(batch.prompts, image_tokens, mask_tokens)


def batch_loss(captioner: UrecaCaptioner, batch: TrainingBatch) -> Tensor:
    """Mean cross entropy of the answers' tokens, all samples together."""
    prompts = packed_batch(captioner, batch)
    visible = None if batch.visible is None else batch.visible.to(captioner.device)
    return captioner.model.loss(prompts, visible)


def new_captioner(
    folder: str | os.PathLike[str],
    *,
    num_mask_token: int = 8,
    arch: int = 3,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> UrecaCaptioner:
    """An InternVL2.5 checkpoint with a new mask encoder, for stage 1.

    The mask encoder has the published first values. The three new tokens get embeddings drawn from
    a normal distribution of deviation 0.02 and, in the head, the mean of the old rows; the
    published training leaves both as they are.

    Args:
        folder: a checkpoint of InternVL2.5.
        num_mask_token: N, mask tokens of a tile.
        arch: which mask encoder.
        dtype: floating-point type of the weights in memory; None for that of the files.
        seed: of the new values.

    Raises:
        FileNotFoundError, ValueError, NotImplementedError: as for
            ``UrecaCaptioner.from_pretrained``.
    """
    values = read_config(folder, UrecaCaptioner.model_type)
    config = UrecaConfig.from_dict(
        {**values, "num_mask_token": num_mask_token, "dynamic_mask_size": True, "arch": arch}
    )
    tokenizer = Tokenizer.from_pretrained(folder)
    for token in NEW_TOKENS:
        tokenizer.backend.add_special_tokens([AddedToken(token, normalized=False, special=True)])
    tokenizer = Tokenizer(tokenizer.backend, tokenizer.names)
    old = config.llm["vocab_size"]
    new = max(old, tokenizer.vocab_size)
    captioner = UrecaCaptioner(
        replace(config, llm={**config.llm, "vocab_size": new}),
        tokenizer,
        dtype=dtype or stored_dtype(folder),
        model_id=Path(folder).resolve().name,
    )
    _resize(captioner.decoder, old)
    load_weights(captioner.model, folder, UrecaLayout.of(config), optional=["mask_tokens."])
    captioner.model.init_weights(seed)
    _grow(captioner.decoder, new, torch.Generator().manual_seed(seed))
    return captioner


def _resize(decoder: Any, count: int) -> None:
    """As many token rows as a file has; they hold nothing yet."""
    for module in (decoder.get_input_embeddings(), decoder.lm_head):
        module.weight = nn.Parameter(module.weight.detach()[:count])


def _grow(decoder: Any, count: int, generator: torch.Generator) -> None:
    """Rows for new tokens: drawn in the embeddings, the mean of the old ones in the head."""
    embedding, head = decoder.get_input_embeddings(), decoder.lm_head
    old = embedding.weight.detach()
    drawn = _DEVIATION * torch.randn(count - len(old), old.shape[1], generator=generator)
    mean = head.weight.detach().float().mean(0, keepdim=True).expand_as(drawn)
    for module, rows in ((embedding, drawn), (head, mean)):
        weight = module.weight.detach()
        module.weight = nn.Parameter(torch.cat((weight, rows.to(weight))))
