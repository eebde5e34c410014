"""GAR as a captioner: requests become tiles, masks and token ids, and these become prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fastregion import ops
from fastregion.language import ChatTemplate, PackedPrompts, Tokenizer, append_tokens
from fastregion.models.base import Captioner
from fastregion.models.gar.batch import GarBatch
from fastregion.models.gar.checkpoint import PUBLISHED
from fastregion.models.gar.config import GarConfig
from fastregion.models.gar.modeling import GarModel
from fastregion.models.gar.preparation import MAX_FRAMES, Preparation
from fastregion.models.gar.processing import (
    PREPROCESSOR,
    ProcessorConfig,
    cut_tiles,
    normalise,
    region_box,
)
from fastregion.models.gar.prompts import (
    CAPTION_REGION,
    CHAT_TEMPLATE,
    DEFAULT_INSTRUCTION,
    DEFAULT_VIDEO_INSTRUCTION,
    END_OF_TURN,
    IMAGE_TOKEN,
    crop_token,
    dialogue_intro,
    named_regions,
    question_text,
    region_name,
    region_text,
    turn_text,
)
from fastregion.models.request import RegionRequest, TooManyRegionsError, VideoRequest
from fastregion.models.shared_prompts import SharedPrompts
from fastregion.models.weights import stored_dtype

__all__ = ["Boxes", "GarCaptioner"]

Boxes = Literal["per-region", "released"]

_TILES_AT_A_TIME = 8  # through the vision tower: bounds its memory, and no product gets faster


class GarCaptioner(Captioner):
    """Describes regions and answers questions about up to five of them.

    Made here, its weights lie on the ``meta`` device: load them (:func:`fastregion.load`) or call
    ``captioner.model.init_weights()``.

    Args:
        config: sizes.
        tokenizer: with the names and reserved tokens of regions.
        processor: how pictures are cut.
        template: how a conversation is written; None for Perception-LM's.
        dtype: floating-point type of the weights.
        model_id: name for people.

    Attributes:
        boxes: which box a region is replayed from when several are asked about. ``"per-region"``:
            its own, as in training; more regions than there are names for are refused.
            ``"released"``: as in the published evaluation, for reproducing its outputs. All are
            replayed from the box of the last one, and those beyond the names (``<Prompt5>`` and
            above of five) are asked about all the same: they are not marked in the picture, their
            names are ordinary text, and their placeholders keep their own embeddings ``[P, D]``.

    Raises:
        ValueError: tokenizer, processor and config do not fit.
    """

    model_type = "GAR"
    config_class = GarConfig
    layout = PUBLISHED
    batch_size = 8  # a prompt has some 5000 tokens, for which keys and values are kept
    answers_keep_special = True  # the names of regions, without which they are no sentences

    config: GarConfig
    model: GarModel

    def __init__(
        self,
        config: GarConfig,
        tokenizer: Tokenizer,
        processor: ProcessorConfig,
        template: ChatTemplate | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        model_id: str | None = None,
    ) -> None:
        self.processor = processor
        self.template = template or ChatTemplate(CHAT_TEMPLATE)
        self.boxes = "per-region"
        self._dtype = dtype
        if config.vision.image_size != (processor.tile_size,) * 2:
            raise ValueError(
                f"{PREPROCESSOR}: tile_size must be the {config.vision.image_size} of config.json, "
                f"got {processor.tile_size}"
            )
        base = config.mllm_config
        expected = {IMAGE_TOKEN: base.image_token_id}
        expected.update({crop_token(k): id_ for k, id_ in enumerate(config.crop_tokens_ids)})
        for token, token_id in expected.items():
            if tokenizer.token_id(token) != token_id:
                raise ValueError(
                    f"tokenizer: the id of {token!r} must be the {token_id} of config.json, "
                    f"got {tokenizer.token_id(token)}"
                )
        for token in (END_OF_TURN, *map(region_name, range(config.prompt_numbers))):
            tokenizer.token_id(token)  # raises where there is none
        super().__init__(config, tokenizer, model_id=model_id)
        vocabulary = self.model.decoder.config.vocab_size
        if len(tokenizer) > vocabulary:
            raise ValueError(
                f"tokenizer: must have at most the {vocabulary} tokens of config.json "
                f"(mllm_config.text_config.vocab_size), got {len(tokenizer)}"
            )

    @property
    def boxes(self) -> Boxes:
        """See the class."""
        return self._boxes

    @boxes.setter
    def boxes(self, value: Boxes) -> None:
        if value not in ("per-region", "released"):
            raise ValueError(f"boxes: must be 'per-region' or 'released', got {value!r}")
        self._boxes = value

    @classmethod
    def without_weights(
        cls, folder: Path, config: GarConfig, dtype: torch.dtype | None
    ) -> GarCaptioner:
        """From a folder's files; the type of the weights is that of the file by default."""
        tokenizer = Tokenizer.from_pretrained(folder)
        try:
            template = ChatTemplate.from_pretrained(folder, tokenizer.names)
        except FileNotFoundError:  # a checkpoint may leave out what all of its kind share
            template = None
        return cls(
            config,
            tokenizer,
            ProcessorConfig.from_folder(folder),
            template,
            dtype=dtype or stored_dtype(folder),
        )

    def build_model(self) -> GarModel:
        """The model, without weights."""
        return GarModel(self.config, dtype=self._dtype)

    @property
    def decoder(self) -> nn.Module:
        """The Llama decoder."""
        decoder: nn.Module = self.model.decoder
        return decoder

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """The end of a turn."""
        return (self.tokenizer.token_id(END_OF_TURN),)

    @property
    def max_shared_regions(self) -> int:
        """As many as there are names for."""
        return self.config.prompt_numbers

    @property
    def max_frames(self) -> int:
        """As many as there are reserved tokens for, in training."""
        return MAX_FRAMES

    def frames_looked_at(self, num_frames: int) -> Sequence[int]:
        """Evenly spread ones."""
        count = min(num_frames, self.max_frames)
        chosen: list[int] = np.linspace(0, num_frames - 1, count).round().astype(int).tolist()
        return chosen

    def texts(self) -> dict[str, str]:
        """Processor and chat template."""
        return {
            PREPROCESSOR: json.dumps(self.processor.to_dict(), indent=2) + "\n",
            "chat_template.jinja": self.template.template,
        }

    @property
    def preparation(self) -> Preparation:
        """What prompts need but the weights."""
        return Preparation(
            config=self.config,
            tokenizer=self.tokenizer,
            processor=self.processor,
            template=self.template,
        )

    def process(self, request: RegionRequest | VideoRequest) -> GarBatch:
        """Cut tiles, merge masks, write prompts.

        Raises:
            TooManyRegionsError: a joint request about more regions than there are names for; where
                ``boxes`` is ``"released"``, than there are placeholders for.
            ValueError: one that does not name each; placeholders in the instruction.
        """
        instruction = request.instruction or ""
        for token in (IMAGE_TOKEN, *map(crop_token, range(self.max_frames))):
            if token in instruction:
                raise ValueError(f"prompt: must not contain the placeholder {token!r}")
        if isinstance(request, VideoRequest):
            return self._process_video(request)
        regions, most = request.regions, self.config.prompt_numbers
        if request.joint:
            self._check_count(len(regions))
            groups = [list(regions)]
        elif request.share:
            groups = [list(regions[k : k + most]) for k in range(0, len(regions), most)]
        else:
            groups = [[region] for region in regions]
        prepared = self.preparation
        if "tiles" not in request.kept:  # cut once for all parts of a request
            request.kept["tiles"] = prepared.tiles(request.image)
        batch = prepared.assembly(*request.kept["tiles"])
        for group in groups:
            names = list(range(len(group)))
            if not request.joint and not request.share:
                names = [min(CAPTION_REGION, most - 1)]
            batch.look(group[:most])
            if request.joint:
                text = self._question(names, instruction)
                boxes = [region_box(region) for region in group]
                if self.boxes == "released":
                    boxes = [boxes[-1]] * len(boxes)
                named = dict(zip(names[:most], boxes, strict=False))
                batch.add(prepared.input_ids([("user", text)], batch), named)
                continue
            for name, region in zip(names, group, strict=True):
                # In the instruction, the region that a prompt is about is <Prompt0>.
                said = instruction.replace(region_name(0), region_name(name))
                block = prepared.block(name)
                if request.share:
                    text = dialogue_intro(names) + turn_text(
                        name, block, said or DEFAULT_INSTRUCTION
                    )
                else:
                    text = region_text(name, block, said or DEFAULT_INSTRUCTION)
                batch.add(prepared.input_ids([("user", text)], batch), {name: region_box(region)})
        return batch.finish(request.kept, share=request.share and not request.joint)

    def _check_count(self, count: int) -> None:
        """Raise where so many regions cannot be asked about together."""
        most = self.config.prompt_numbers
        if self.boxes == "released":
            find = self.tokenizer.backend.token_to_id
            most = sum(find(crop_token(k)) is not None for k in range(count))
        if count > most:
            raise TooManyRegionsError(self.model_id, most, count)

    def _question(self, names: list[int], question: str) -> str:
        block, named = self.preparation.block, named_regions(question)
        if not named and len(names) == 1:
            return region_text(0, block(0), question)
        if sorted(named) != names:  # as the published evaluation demands
            raise ValueError(
                f"question: must name each of the {len(names)} regions, "
                f"{', '.join(map(region_name, names))}, got {question!r}"
            )
        return question_text(named, [block(name) for name in named], question)

    def _process_video(self, request: VideoRequest) -> GarBatch:
        """One tile a frame; every frame has placeholders of its own for the object in it."""
        request = request.select(self.frames_looked_at(len(request.frames)))
        size = self.processor.tile_size
        tiles = torch.cat([cut_tiles(frame, size, None) for frame in request.frames])
        prepared = self.preparation
        batch = prepared.assembly(tiles, None)
        name = min(CAPTION_REGION, self.config.prompt_numbers - 1)
        said = (request.instruction or DEFAULT_VIDEO_INSTRUCTION).replace(
            region_name(0), region_name(name)
        )
        for regions in request.objects:
            batch.look(regions)
            boxes = {
                frame: region_box(region)
                for frame, region in enumerate(regions)
                if region is not None
            }
            text = region_text(name, "".join(map(prepared.block, boxes)), said)
            batch.add(prepared.input_ids([("user", text)], batch), boxes)
        return batch.finish({})

    def encode(self, batch: GarBatch) -> PackedPrompts | SharedPrompts:
        """One vision pass over all different looks, then the replay, then the prompts."""
        device = self.device
        # With gradients nothing is kept: weights change between two calls.
        kept = {} if torch.is_grad_enabled() else batch.kept
        new = [k for k, look in enumerate(batch.looks) if look not in kept]
        found = dict(kept)
        for start in range(0, len(new), _TILES_AT_A_TIME):
            part = new[start : start + _TILES_AT_A_TIME]
            tiles = normalise(batch.tiles[[batch.looks[k].tile for k in part]].to(device))
            masks = ops.BitMasks(batch.masks.words[part].to(device), batch.masks.width)
            for k, features in zip(part, self.model.embed_tiles(tiles, masks), strict=True):
                found[batch.looks[k]] = features
        features = torch.stack([found[look] for look in batch.looks])
        kept.update({look: found[look] for look in batch.looks if not look.mask})
        boxes = batch.boxes.to(device)
        replayed = [
            self.model.replay(_rows(features, rows), grid, boxes[k : k + 1])
            for k, (rows, grid) in enumerate(batch.grids)
        ]
        tokens = features, torch.cat(replayed) if replayed else features[:0]
        prompts = self.model.pack(batch.prompts, *tokens)
        if not batch.prefixes:
            return prompts
        return SharedPrompts(prompts, self.model.pack(batch.prefixes, *tokens), batch.prefix_of)

    def append_text(self, prompts: PackedPrompts, texts: Sequence[str]) -> PackedPrompts:
        """Continue each prompt with an answer and the end of the turn."""
        ids = [[*self.tokenizer.encode(text), *self.eos_token_ids] for text in texts]
        return append_tokens(prompts, ids, self.model.decoder.get_input_embeddings())


def _rows(features: Tensor, rows: Sequence[int]) -> Tensor:
    """Rows of a tensor, without a copy where they follow one another."""
    first, count = rows[0], len(rows)
    if list(rows) == list(range(first, first + count)):
        return features[first : first + count]
    return features[list(rows)]
