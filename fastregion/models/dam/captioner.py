"""DAM as a captioner: requests become views and token ids, and these become prompts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fastregion.images import ImageSource
from fastregion.language import PackedPrompts, Tokenizer, append_tokens
from fastregion.models.answers import generate_answers
from fastregion.models.base import Captioner
from fastregion.models.checkpoint import read_config
from fastregion.models.dam.checkpoint import (
    STATE_DICT,
    load_parts,
    part_folder,
    read_values,
    save_parts,
)
from fastregion.models.dam.config import DamConfig
from fastregion.models.dam.modeling import DamModel, PromptLayout
from fastregion.models.dam.processing import (
    PREPROCESSOR,
    check_preprocessor,
    full_view,
    preprocessor_values,
    sample_frames,
    views,
)
from fastregion.models.dam.prompts import (
    IMAGE_TAG,
    IMAGE_TOKEN_ID,
    TEMPLATES,
    answer_ids,
    image_query,
    input_ids,
    video_query,
    without_name,
)
from fastregion.models.inputs import single_image
from fastregion.models.request import (
    ImagesRequest,
    RegionRequest,
    Request,
    Sampling,
    VideoRequest,
    check_int,
)
from fastregion.models.shared_prompts import SharedPrompts
from fastregion.models.weights import stored_dtype
from fastregion.regions import as_regions

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DamBatch", "DamCaptioner", "merge"]

_FRAMES_AT_A_TIME = 8  # through the vision tower: bounds its memory, and no product gets faster
_JOINT = "dam-3b-video"  # in the name of a checkpoint that was trained on images and videos


@dataclass(frozen=True, kw_only=True)
class DamBatch:
    """What ``DamCaptioner.encode`` takes.

    Attributes:
        views: uint8 ``[F, 8, S, S]``, both views of each frame.
        prompts: which frames each prompt shows, and its ids.
    """

    views: Tensor
    prompts: tuple[PromptLayout, ...]

    def to(self, device: torch.device | str) -> DamBatch:
        """Move the views."""
        return replace(self, views=self.views.to(device))


def merge(batches: Sequence[DamBatch]) -> DamBatch:
    """Batches one behind the other."""
    prompts: list[PromptLayout] = []
    first = 0
    for batch in batches:
        prompts += [
            replace(prompt, frames=[frame + first for frame in prompt.frames])
            for prompt in batch.prompts
        ]
        first += len(batch.views)
    return DamBatch(views=torch.cat([batch.views for batch in batches]), prompts=tuple(prompts))


class DamCaptioner(Captioner):
    """Describes one region of an image, or one object of a video, at a time.

    Made here, its weights lie on the ``meta`` device: load them (:func:`fastregion.load`) or call
    ``captioner.model.init_weights()``.

    Args:
        config: sizes.
        tokenizer: a Llama tokenizer.
        conv_mode: which of ``prompts.TEMPLATES`` the model was trained with.
        dtype: floating-point type of the weights.
        model_id: name for people.

    Attributes:
        released_generation: how the published class chooses words by default, as arguments of
            ``describe``.

    Raises:
        ValueError: tokenizer and config do not fit, or an unknown ``conv_mode``.
    """

    model_type = "llava_llama"
    config_class = DamConfig
    layout = STATE_DICT
    released_generation: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"max_new_tokens": 512, "temperature": 0.2, "top_p": 0.5, "top_k": 50, "num_beams": 1}
    )

    config: DamConfig
    model: DamModel

    def __init__(
        self,
        config: DamConfig,
        tokenizer: Tokenizer,
        *,
        conv_mode: str = "v1",
        dtype: torch.dtype = torch.float32,
        model_id: str | None = None,
    ) -> None:
        if conv_mode not in TEMPLATES:
            raise ValueError(f"conv_mode: must be one of {list(TEMPLATES)}, got {conv_mode!r}")
        if config.llm.get("vocab_size") != tokenizer.vocab_size:
            raise ValueError(
                f"config.json: llm_cfg.vocab_size must be {tokenizer.vocab_size}, the number of "
                f"the tokenizer's tokens, got {config.llm.get('vocab_size')}"
            )
        self.template = TEMPLATES[conv_mode]
        self._dtype = dtype
        tokenizer.token_id(self.template.stop)  # raises where there is none
        super().__init__(config, tokenizer, model_id=model_id)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        model_id: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Load a published checkpoint, a folder for each part, or what ``save_pretrained`` wrote.

        A published checkpoint does not say whether it was trained on videos too; one with
        "DAM-3B-Video" in its name is taken to be. ``config.image_video_joint`` says so from then
        on.

        Args:
            folder: the folder.
            model_id: name for people; the folder's by default.
            dtype: floating-point type of the weights in memory; None for that of the files.

        Raises:
            FileNotFoundError: the folder, a part's folder or one of their files is missing.
            ValueError: a file is damaged, or the folder holds another kind of model.
            NotImplementedError: a configuration that is not supported.
        """
        root = Path(folder)
        values = read_config(root, cls.model_type)
        name = model_id or root.resolve().name
        config = DamConfig.from_dict(read_values(root, values))
        text = part_folder(root, values, "llm") or root
        if text is not root and _JOINT in name.lower():
            config = replace(config, image_video_joint=True)
        vision = part_folder(root, values, "vision_tower") or root
        check_preprocessor(vision, config.vision.image_size)
        captioner = cls(
            config,
            Tokenizer.from_pretrained(text),
            dtype=dtype or stored_dtype(text),
            model_id=name,
        )
        load_parts(captioner.model, root, values)
        return captioner

    def describe_images(
        self,
        images: Sequence[ImageSource],
        regions: Sequence[Any],
        prompt: str | None = None,
        *,
        batch_size: int | None = None,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        **settings: Any,
    ) -> list[list[str]]:
        """Describe regions of several images, a batch of them at a time.

        Args:
            images: anything :func:`fastregion.images.load_image` reads, one by one.
            regions: for each image, anything :func:`fastregion.regions.as_regions` takes.
            prompt: as for :meth:`describe`.
            batch_size: how many regions are worked on at a time, of all images together.
            max_new_tokens: as for :meth:`describe`.
            temperature: as for :meth:`describe`.
            seed: as for :meth:`describe`.
            settings: further ones of how tokens are chosen there (``top_p``, ``num_beams``, ...).

        Returns:
            For each image, a text for each of its regions.

        Raises:
            FileNotFoundError, TypeError, ValueError: as for :meth:`describe`; also another number
                of images than of regions.
        """
        sampling = Sampling(
            max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, **settings
        )
        size = self.batch_size if batch_size is None else batch_size
        check_int("batch_size", size, at_least=1)
        if len(images) != len(regions):
            raise ValueError(
                f"regions: expected those of each of {len(images)} images, got {len(regions)}"
            )
        requests = []
        for image, of_one in zip(images, regions, strict=True):
            pixels = single_image(self, image)
            found = tuple(as_regions(of_one, pixels.shape[:2]))
            requests.append(RegionRequest(pixels, found, prompt))
        single = [part for request in requests for part in request.split(1)]
        groups = [ImagesRequest(tuple(single[k : k + size])) for k in range(0, len(single), size)]
        texts = iter([result.text for result in generate_answers(self, groups, sampling)])
        return [[next(texts) for _ in request.regions] for request in requests]

    def save_published(self, folder: str | os.PathLike[str]) -> None:
        """Write the published layout, a folder for each part; see ``checkpoint.save_parts``."""
        save_parts(folder, config=self.config, model=self.model, tokenizer=self.tokenizer)

    def texts(self) -> dict[str, str]:
        """The preprocessor's settings."""
        values = preprocessor_values(self.config.vision.image_size)
        return {PREPROCESSOR: json.dumps(values, indent=2) + "\n"}

    def build_model(self) -> DamModel:
        """The model, without weights."""
        return DamModel(self.config, dtype=self._dtype)

    @property
    def decoder(self) -> nn.Module:
        """The Llama decoder."""
        decoder: nn.Module = self.model.llm
        return decoder

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """The end of an answer, and what else generation is configured to stop at."""
        configured = self.config.llm.get("eos_token_id")
        ids = [configured] if isinstance(configured, int) else list(configured or ())
        return tuple(dict.fromkeys((self.tokenizer.token_id(self.template.stop), *ids)))

    @property
    def max_frames(self) -> int:
        """Frames of a video that are looked at."""
        return self.config.num_video_frames

    def process(self, request: Request) -> DamBatch:
        """Cut and resize views, write prompts.

        Args:
            request: regions of one image, objects of a video, or regions of several images.

        Raises:
            ValueError: an image tag in the instruction.
            NotImplementedError: a question about several regions together.
        """
        if isinstance(request, VideoRequest):
            return self._process_video(request)
        requests = (request,) if isinstance(request, RegionRequest) else request.requests
        size = self.config.vision.image_size
        found: list[Tensor] = []
        prompts: list[PromptLayout] = []
        for one in requests:
            if one.joint and len(one.regions) > 1:
                raise NotImplementedError(
                    f"regions: {self.model_id} is asked about one region at a time, "
                    f"got {len(one.regions)} for one question"
                )
            ids = self.input_ids(
                image_query(_said(one.instruction), joint=self.config.image_video_joint)
            )
            if "full" not in one.kept:
                one.kept["full"] = full_view(one.image, size)
            for region in one.regions:
                prompts.append(PromptLayout(input_ids=ids, frames=(len(found),)))
                found.append(views(one.image, region, size, one.kept["full"]))
        return DamBatch(views=torch.stack(found), prompts=tuple(prompts))

    def _process_video(self, request: VideoRequest) -> DamBatch:
        """Frames that show the object, evenly spread; each has its own mask and focal crop."""
        size, count = self.config.vision.image_size, self.config.num_video_frames
        ids = self.input_ids(video_query(_said(request.instruction), count))
        full: dict[int, Tensor] = {}
        rows: dict[tuple[int, int], int] = {}  # by object and frame: a frame may come twice
        found: list[Tensor] = []
        prompts: list[PromptLayout] = []
        for index, regions in enumerate(request.objects):
            seen = [(k, region) for k, region in enumerate(regions) if region is not None]
            chosen = [seen[k] for k in sample_frames(len(seen), count)]
            for k, region in chosen:
                if k not in full:
                    full[k] = full_view(request.frames[k], size)
                if (index, k) not in rows:
                    rows[index, k] = len(found)
                    found.append(views(request.frames[k], region, size, full[k]))
            frames = tuple(rows[index, k] for k, _ in chosen)
            prompts.append(PromptLayout(input_ids=ids, frames=frames))
        return DamBatch(views=torch.stack(found), prompts=tuple(prompts))

    def input_ids(self, query: str) -> list[int]:
        """Ids of a conversation up to the answer, ``IMAGE_TOKEN_ID`` for each frame.

        Raises:
            ValueError: longer than the model's context with the frames' tokens.
        """
        ids = input_ids(self.template.prompt(query), self.tokenizer)
        length = len(ids) + ids.count(IMAGE_TOKEN_ID) * (self.config.tokens_per_image - 1)
        longest = self.config.llm.get("tokenizer_model_max_length")
        if longest is not None and length > longest:  # the published code cuts off the end
            raise ValueError(
                f"prompt: must have at most {longest} tokens with its images, got {length}"
            )
        return ids

    def encode(self, batch: DamBatch) -> PackedPrompts | SharedPrompts:
        """Both passes of the tower over all frames, then the prompts.

        Without gradients, several prompts share the text in front of their frames, unless they have
        labels.
        """
        device = self.device
        frames = batch.views
        tokens = torch.cat(
            [
                self.model.embed_frames(frames[start : start + _FRAMES_AT_A_TIME].to(device))
                for start in range(0, len(frames), _FRAMES_AT_A_TIME)
            ]
        )
        prompts = batch.prompts
        labelled = any(prompt.labels is not None for prompt in prompts)
        if torch.is_grad_enabled() or len(prompts) == 1 or labelled:
            return self.model.pack(prompts, tokens)
        lengths = [list(prompt.input_ids).index(IMAGE_TOKEN_ID) for prompt in prompts]
        beginnings = [tuple(p.input_ids[:n]) for p, n in zip(prompts, lengths, strict=True)]
        unique = list(dict.fromkeys(beginnings))
        rests = [
            replace(prompt, input_ids=prompt.input_ids[length:], start=length)
            for prompt, length in zip(prompts, lengths, strict=True)
        ]
        return SharedPrompts(
            self.model.pack(rests, tokens),
            self.model.pack([PromptLayout(input_ids=ids, frames=()) for ids in unique], tokens),
            [unique.index(beginning) for beginning in beginnings],
        )

    def append_text(self, prompts: PackedPrompts, texts: Sequence[str]) -> PackedPrompts:
        """Continue each prompt with an answer and its end."""
        ids = [answer_ids(text, self.template, self.tokenizer) for text in texts]
        return append_tokens(prompts, ids, self.model.llm.get_input_embeddings())


def _said(instruction: str | None) -> str | None:
    """An instruction without tags; DAM's regions have no names."""
    if instruction is None:
        return None
    if IMAGE_TAG in instruction:
        raise ValueError(f"prompt: must not contain the placeholder {IMAGE_TAG!r}")
    return without_name(instruction)
