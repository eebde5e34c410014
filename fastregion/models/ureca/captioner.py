"""URECA as a captioner: requests become tiles and token ids, and these become prompts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastregion.language import (
    PackedPrompts,
    ReadPrompts,
    Tokenizer,
    append_tokens,
    read_prompts,
)
from fastregion.language.internlm2 import INTERNLM2
from fastregion.language.lora import add_lora, merge_lora
from fastregion.models.base import Captioner
from fastregion.models.checkpoint import read_config
from fastregion.models.request import RegionRequest, check_int
from fastregion.models.shared_prompts import SharedPrompts
from fastregion.models.ureca.checkpoint import LORA_SCALE, UrecaLayout, check_against_file
from fastregion.models.ureca.config import UrecaConfig
from fastregion.models.ureca.modeling import PromptLayout, UrecaModel
from fastregion.models.ureca.processing import Tiling
from fastregion.models.ureca.prompts import (
    END,
    IMAGE_CONTEXT,
    MASK_CONTEXT,
    SPECIAL_TOKENS,
    ask_about,
    chat,
    expand,
)
from fastregion.models.weights import load_weights, stored_dtype

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["UrecaBatch", "UrecaCaptioner"]

_TILES_AT_A_TIME = 8  # through the vision tower: bounds its memory, and no product gets faster


@dataclass(frozen=True, kw_only=True)
class UrecaBatch:
    """What ``UrecaCaptioner.encode`` takes.

    Attributes:
        tiles: uint8 ``[I, 3, S, S]`` of the picture.
        masks: uint8 ``[M, S, S]``, the tiles of all masks.
        prompts: rows of I and M in the place of tokens.
        kept: what later batches of the same picture need again.
    """

    tiles: Tensor
    masks: Tensor
    prompts: tuple[PromptLayout, ...]
    kept: dict[Any, Any]


class UrecaCaptioner(Captioner):
    """Describes regions of one image, which is looked at, and read by the decoder, once for all.

    Made here, its weights lie on the ``meta`` device: load them (:func:`fastregion.load`) or call
    ``captioner.model.init_weights()``.

    Args:
        config: sizes.
        tokenizer: with the tokens of images and masks.
        max_num: most tiles of a picture, the thumbnail not counted, saved with the model; None for
            that of the config. The published training has 6 (``config.max_dynamic_patch``).
        multi_region: likewise; see the config.
        dtype: floating-point type of the weights.
        model_id: name for people.

    Raises:
        ValueError: tokenizer and config do not fit.
    """

    model_type = "internvl_chat"
    config_class = UrecaConfig

    config: UrecaConfig
    model: UrecaModel
    layout: UrecaLayout

    def __init__(
        self,
        config: UrecaConfig,
        tokenizer: Tokenizer,
        *,
        max_num: int | None = None,
        multi_region: bool | None = None,
        dtype: torch.dtype = torch.float32,
        model_id: str | None = None,
    ) -> None:
        for token in SPECIAL_TOKENS:
            tokenizer.token_id(token)  # raises where there is none
        self._dtype = dtype
        self.layout = UrecaLayout.of(config)
        if multi_region is not None:
            config = replace(config, multi_region=multi_region)
        super().__init__(config, tokenizer, model_id=model_id)
        if max_num is not None:
            self.max_num = max_num
        vocabulary = self.model.language_model.config.vocab_size
        if len(tokenizer) > vocabulary:
            raise ValueError(
                f"tokenizer: must have at most the {vocabulary} tokens of config.json "
                f"(llm_config.vocab_size), got {len(tokenizer)}"
            )

    @property
    def max_num(self) -> int:
        """See the class."""
        return self.config.max_num

    @max_num.setter
    def max_num(self, value: int) -> None:
        check_int("max_num", value, at_least=self.config.min_dynamic_patch)
        self.config = replace(self.config, max_num=value)

    @property
    def tiling(self) -> Tiling:
        """How pictures and masks are cut."""
        config = self.config
        return Tiling(
            size=config.image_size,
            min_num=config.min_dynamic_patch,
            max_num=self.max_num,
            use_thumbnail=config.use_thumbnail,
            dynamic=config.dynamic_image_size,
            dynamic_mask=config.dynamic_mask_size,
            mask_thumbnail=config.mask_thumbnail,
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        model_id: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Load a published checkpoint, merged or with LoRA tensors, or a saved one.

        LoRA tensors are folded into the weights; ``config.use_llm_lora`` is 0 from then on.

        Args:
            folder: the folder.
            model_id: name for people; the folder's by default.
            dtype: floating-point type of the weights in memory; None for that of the files.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a file is damaged, or contradicts another.
            NotImplementedError: a configuration that is not supported.
        """
        values = read_config(folder, cls.model_type)
        config = check_against_file(values, UrecaConfig.from_dict(values), folder)
        captioner = cls(
            replace(config, use_llm_lora=0),
            Tokenizer.from_pretrained(folder),
            dtype=dtype or stored_dtype(folder),
            model_id=model_id or Path(folder).resolve().name,
        )
        load_weights(captioner.model, folder, UrecaLayout.of(config))
        return captioner

    def add_lora(self, *, rank: int, dropout: float = 0.0, seed: int = 0) -> list[nn.Parameter]:
        """Give all linear layers of the decoder low-rank updates, for a second stage of training.

        Alpha is twice the rank, as in the published training. The model is saved with its updates
        beside its weights then, which loading folds. Decoding wants :meth:`merge_lora`.

        Args:
            rank: of the updates.
            dropout: of what goes into them, in training.
            seed: of their first values.

        Returns:
            The parameters of the updates.

        Raises:
            ValueError: as for :func:`fastregion.language.lora.add_lora`.
        """
        added = add_lora(
            self.decoder,
            rank=rank,
            alpha=LORA_SCALE * rank,
            dropout=dropout,
            share_qkv=self.config.llm["model_type"] == INTERNLM2,  # there they are one layer
            seed=seed,
        )
        self._saved_rank(rank)
        return added

    def merge_lora(self) -> None:
        """Fold the low-rank updates into the weights."""
        merge_lora(self.decoder)
        self._saved_rank(0)

    def _saved_rank(self, rank: int) -> None:
        self.config = replace(self.config, use_llm_lora=rank)
        self.layout = replace(self.layout, lora_rank=rank)

    def build_model(self) -> UrecaModel:
        """The model, without weights."""
        return UrecaModel(
            self.config,
            image_id=self.tokenizer.token_id(IMAGE_CONTEXT),
            mask_id=self.tokenizer.token_id(MASK_CONTEXT),
            dtype=self._dtype,
        )

    @property
    def decoder(self) -> nn.Module:
        """The Qwen2 or Llama decoder."""
        decoder: nn.Module = self.model.language_model
        return decoder

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """The end of a turn."""
        return (self.tokenizer.token_id(END),)

    def process(self, request: RegionRequest) -> UrecaBatch:
        """Cut tiles, write prompts.

        Raises:
            ValueError: an instruction without a place for the mask, or with too many.
            NotImplementedError: a question about several regions, unless ``multi_region``.
        """
        tiling, regions = self.tiling, request.regions
        if request.joint and len(regions) > 1 and not self.config.multi_region:
            raise NotImplementedError(
                f"regions: {self.model_id} was trained for one region at a time, got "
                f"{len(regions)} for one question; multi_region=True allows it"
            )
        groups = [regions] if request.joint else [(region,) for region in regions]
        question = ask_about(request.instruction, len(groups[0]))
        if "tiles" not in request.kept:
            request.kept["tiles"] = tiling.image(request.image)
        tiles: Tensor = request.kept["tiles"]
        masks = [[tiling.mask(region) for region in group] for group in groups]
        counts = [len(mask) for mask in masks[0]]  # the same for all, as the picture is
        text = expand(
            question,
            len(tiles) * self.config.tokens_per_tile,
            [count * self.config.num_mask_token for count in counts],
        )
        ids = self.tokenizer.encode(chat(self.config.system, text), add_special_tokens=True)
        per_prompt = sum(counts)
        prompts = tuple(
            PromptLayout(
                input_ids=ids,
                image=range(len(tiles)),
                masks=range(k * per_prompt, (k + 1) * per_prompt),
            )
            for k in range(len(groups))
        )
        return UrecaBatch(
            tiles=tiles,
            masks=torch.cat([mask for group in masks for mask in group]),
            prompts=prompts,
            kept=request.kept,
        )

    def encode(self, batch: UrecaBatch) -> PackedPrompts | SharedPrompts:
        """Encode the picture, unless that has been done, and the masks; then the prompts.

        Without gradients the prompts share what stands in front of their masks, the picture with
        it, which the decoder reads once for all batches of a request. Image tokens do not depend
        on the mask, so that changes nothing.
        """
        # With gradients nothing is kept: weights change between two calls.
        kept = {} if torch.is_grad_enabled() else batch.kept
        if "image_tokens" not in kept:
            kept["image_tokens"] = self._image_tokens(batch.tiles)
        image_tokens: Tensor = kept["image_tokens"]
        mask_tokens = self._mask_tokens(batch.masks, image_tokens)
        if torch.is_grad_enabled():
            return self.model.pack(batch.prompts, image_tokens, mask_tokens)
        ids = list(batch.prompts[0].input_ids)
        length = ids.index(self.model.mask_id)
        seen = self.model.image_id in ids[:length]  # a question may have the mask in front
        if "prefix" not in kept or kept["prefix"][0] != ids[:length]:
            beginning = PromptLayout(
                input_ids=ids[:length], image=batch.prompts[0].image if seen else (), masks=()
            )
            packed = self.model.pack([beginning], image_tokens, mask_tokens)
            kept["prefix"] = ids[:length], read_prompts(self.decoder, packed)
        prefix: ReadPrompts = kept["prefix"][1]
        rests = [
            replace(
                prompt,
                input_ids=prompt.input_ids[length:],
                image=() if seen else prompt.image,
                start=length,
            )
            for prompt in batch.prompts
        ]
        packed = self.model.pack(rests, image_tokens, mask_tokens)
        return SharedPrompts(packed, prefix, [0] * len(rests))

    def _image_tokens(self, tiles: Tensor) -> Tensor:
        parts = torch.split(tiles, _TILES_AT_A_TIME)
        return torch.cat([self.model.embed_tiles(part.to(self.device)) for part in parts])

    def _mask_tokens(self, masks: Tensor, image_tokens: Tensor) -> Tensor:
        masks = masks.to(self.device)
        if self.config.arch == 3:
            return self.model.embed_masks(masks)
        count = len(image_tokens)  # arch 2 looks at the picture with every mask
        parts = [self.model.embed_masks(part, image_tokens) for part in torch.split(masks, count)]
        return torch.cat(parts)

    def append_text(self, prompts: PackedPrompts, texts: Sequence[str]) -> PackedPrompts:
        """Continue each prompt with an answer and the end of the turn."""
        ids = [[*self.tokenizer.encode(text), *self.eos_token_ids] for text in texts]
        return append_tokens(prompts, ids, self.model.language_model.get_input_embeddings())
