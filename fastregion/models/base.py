"""What every captioner can do; a model adds how an image and its regions become a prompt.

    image, regions, prompt -> RegionRequest -> process, encode -> PackedPrompts -> generate -> text

A subclass provides the model's own steps (``build_model``, ``decoder``, ``eos_token_ids``,
``process``, ``encode``, ``append_text``). Checking, batching over regions, generation, streaming,
scoring, saving and loading are written here, once.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import nn

from fastregion.images import ImageSource, RgbImage
from fastregion.language import (
    EarlyStopping,
    GeneratedText,
    PackedPrompts,
    ReadPrompts,
    Tokenizer,
    beam_texts,
    generate_text,
)
from fastregion.models import checkpoint
from fastregion.models.answers import (
    generate_answers,
    prompt_arguments,
    score_texts,
    stream_answers,
)
from fastregion.models.inputs import single_image, video_request
from fastregion.models.patterns import fits, require_fit
from fastregion.models.request import (
    RegionRequest,
    Request,
    Sampling,
    VideoRequest,
    check_int,
    is_one_region,
)
from fastregion.models.shared_prompts import SharedPrompts
from fastregion.models.unique import unique_answers
from fastregion.models.weights import OWN_NAMES, Layout, load_weights
from fastregion.regions import Region, as_regions
from fastregion.videos import is_video_path

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Captioner", "ModelConfig"]

Propagate = Callable[[Sequence[RgbImage], Region], Iterable[Any]]


class ModelConfig(Protocol):
    """A model's numbers: a dataclass that goes through JSON and back, ``model_type`` included."""

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        ...

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of ``to_dict``; an unknown key is an error."""
        ...


class Captioner(ABC):
    """Describes regions of images in words.

    Attributes:
        model_type: what ``config.json`` calls this kind of model.
        config_class: type of ``config``.
        layout: how files call the parameters.
        batch_size: regions at a time where the caller does not say: enough to fill a CPU's or a
            small GPU's matrix products.
        answers_keep_special: whether special tokens are part of what ``ask`` answers, such as names
            of regions; the token that ends an answer never is.
        config: the model's numbers.
        tokenizer: between text and token ids.
        model: one module that holds all weights.
        model_id: name of the weights, for people.
        propagate: finds an object in a video, given as one region of its first frame: called with
            the frames and that region, returns what ``describe`` takes for one object, a region or
            None for each frame. None: videos need a region for each frame.
    """

    model_type: ClassVar[str]
    config_class: ClassVar[type[ModelConfig]]
    layout: Layout = OWN_NAMES
    batch_size: ClassVar[int] = 32
    answers_keep_special: ClassVar[bool] = False

    config: ModelConfig
    tokenizer: Tokenizer
    model: nn.Module
    model_id: str
    propagate: Propagate | None = None

    def __init__(
        self, config: ModelConfig, tokenizer: Tokenizer, *, model_id: str | None = None
    ) -> None:
        """Build the model with random weights, in evaluation mode."""
        self.config = config
        self.tokenizer = tokenizer
        self.model_id = model_id or self.model_type
        self.model = self.build_model().eval()

    # ---- what a model provides ----

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The module for ``self.config`` and ``self.tokenizer``, with random weights."""

    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The language model inside ``model`` (a transformers causal language model)."""

    @property
    @abstractmethod
    def eos_token_ids(self) -> Sequence[int]:
        """Tokens that end a text."""

    @property
    def max_shared_regions(self) -> int:
        """How many regions may share one image; 1 where every region needs its own."""
        return 1

    @property
    def max_frames(self) -> int:
        """Frames of a video that are looked at; 0 where the model describes single images only."""
        return 0

    def frames_looked_at(self, num_frames: int) -> Sequence[int]:
        """Which frames of a video are read; all where that depends on the objects in them."""
        return range(num_frames)

    @abstractmethod
    def process(self, request: Any) -> Any:
        """Turn a request into what ``encode`` takes, with its tensors on ``self.device``.

        The request is a :class:`RegionRequest`, or a :class:`VideoRequest` where ``max_frames``
        is not 0.
        """

    @abstractmethod
    def encode(self, batch: Any) -> PackedPrompts | SharedPrompts:
        """Encode to prompts: one per region, or a single one where the request is joint.

        They are ``SharedPrompts`` only where the request lets them share.
        """

    @abstractmethod
    def append_text(self, prompts: PackedPrompts, texts: Sequence[str]) -> PackedPrompts:
        """Continue each prompt with a text, its tokens and the end token as labels."""

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise NotImplementedError or ValueError for what the model cannot do; asked first."""
        return

    def generate(
        self,
        prompts: PackedPrompts | SharedPrompts | ReadPrompts,
        sampling: Sampling,
        generator: torch.Generator | None,
    ) -> list[GeneratedText]:
        """Write a text for each prompt; a model with a search of its own overrides it."""
        return generate_text(
            self.decoder,
            tokenizer=self._speaking(sampling),
            **prompt_arguments(prompts),
            eos_token_ids=self.eos_token_ids,
            generator=generator,
            **sampling.whole(),
        )

    def candidates(self, prompts: ReadPrompts, sampling: Sampling) -> list[list[GeneratedText]]:
        """Write several texts for each prompt, the best first: all that a beam search ended with.

        A model that changes the texts of ``generate`` overrides it too.
        """
        return beam_texts(
            self.decoder,
            prompts,
            self._speaking(sampling),
            eos_token_ids=self.eos_token_ids,
            **sampling.beams(),
        )

    def _speaking(self, sampling: Sampling) -> Tokenizer:
        """The tokenizer that makes texts of tokens."""
        if not sampling.keep_special:
            return self.tokenizer
        return self.tokenizer.keeping_special(self.eos_token_ids)

    # ---- what every captioner can do ----

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the weights; returns self."""
        self.model.to(device)
        return self

    def describe(
        self,
        image: ImageSource,
        regions: Any,
        prompt: str | None = None,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        top_k: int | None = None,
        top_p: float = 1.0,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        early_stopping: EarlyStopping = False,
        stop: str | Sequence[str] = (),
        stream: bool = False,
        return_details: bool = False,
        batch_size: int | None = None,
        share: str | None = None,
        unique: bool = False,
    ) -> Any:
        """Describe each region.

        Args:
            image: anything :func:`fastregion.images.load_image` reads; or a video: a list of such
                frames, or the path of a video file (which needs ``fastregion[video]``).
            regions: one region or several: anything :func:`fastregion.regions.as_regions` takes. Of
                an object in a video, a list with one for each frame (None, or an empty mask, where
                it is not to be seen); of several objects, a list of such lists. With
                ``propagate`` set: one region of the first frame.
            prompt: what to say instead of a detailed description; ``<Prompt0>`` is the region.
            max_new_tokens: longest text, in tokens.
            temperature: 0 takes the most likely token; above, tokens are drawn from
                ``softmax(logits / temperature)``.
            seed: makes drawing repeatable (for the same regions and batch size).
            top_k: draw from this many most likely tokens only.
            top_p: draw from the most likely tokens of this total probability only.
            num_beams: above 1, search for a likely text with so many beams instead of choosing
                token by token; not with ``stream`` or a temperature.
            length_penalty: of beams: above 0 favours long texts, below 0 short ones.
            early_stopping: of beams, when to end a search: True, False or ``"never"``; see
                :func:`fastregion.language.beam_search`.
            stop: a string or several, such as ``"."``, that end a text and are not part of it.
            stream: return an iterator over pieces of text as they are made.
            return_details: return :class:`Description` objects instead of strings.
            batch_size: how many regions are worked on at a time; None for the model's own.
            share: ``"prompts"`` lets several regions share one image, in which all of them are
                marked: faster than an image each, and not the same answers. None: an image each.
            unique: compare every text with all regions of this call under the model. Where it fits
                another one at least as well as its own, take a text that tells the two apart, if a
                search finds one that is nearly as likely; see :mod:`fastregion.models.unique`. What
                was found stands in ``Description.uniqueness``. Not with ``stream``.

        Returns:
            ``str`` (or :class:`Description`) for one region, a list of them for several (a list,
            an array of masks or boxes, detections), also when several are only one. With
            ``stream``: an iterator over ``str`` for one region, over pairs ``(index, str)`` for
            several, in which the regions of a batch take turns.

        Raises:
            FileNotFoundError, TypeError, ValueError: an argument is not as described; the message
                begins with its name. Nothing has been computed then.
            NotImplementedError: a video for a model that describes single images only; ``share``
                where the model cannot.
            ModuleNotFoundError: a video file, and nothing installed that reads it.
        """
        sampling = Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            top_k=top_k,
            top_p=top_p,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            stop=stop,
        )
        self.check_sampling(sampling)
        if batch_size is None:
            batch_size = self.batch_size
        check_int("batch_size", batch_size, at_least=1)
        if stream and return_details:
            raise ValueError("return_details: cannot be combined with stream")
        if stream and unique:
            raise ValueError("unique: cannot be combined with stream: all texts are compared first")
        if stream and num_beams > 1:
            raise ValueError(f"num_beams: must be 1 with stream, got {num_beams}")
        if share not in (None, "prompts"):
            raise ValueError(f"share: must be None or 'prompts', got {share!r}")
        if share and self.max_shared_regions == 1:
            raise NotImplementedError(f"share: {self.model_id} needs an image for every region")
        request: RegionRequest | VideoRequest
        if isinstance(image, (list, tuple)) or is_video_path(image):
            if share:
                raise NotImplementedError("share: objects of a video cannot share prompts")
            request, one = video_request(self, image, regions, prompt)
        else:
            pixels = single_image(self, image)
            found = tuple(as_regions(regions, pixels.shape[:2]))
            one = is_one_region(regions, pixels.shape[:2])
            request = RegionRequest(pixels, found, prompt, share=share is not None)
            if share:  # whole groups, so that every image is shared by as many as may
                batch_size = max(
                    batch_size - batch_size % self.max_shared_regions, self.max_shared_regions
                )
        parts: list[Request] = list(request.split(batch_size))
        if stream:
            pieces = stream_answers(self, parts, sampling)
            return (piece for _, piece in pieces) if one else pieces
        results = (unique_answers if unique else generate_answers)(self, parts, sampling)
        answers = results if return_details else [result.text for result in results]
        return answers[0] if one else answers

    def ask(
        self,
        image: ImageSource,
        regions: Any,
        question: str,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        top_k: int | None = None,
        top_p: float = 1.0,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        early_stopping: EarlyStopping = False,
        stop: str | Sequence[str] = (),
    ) -> str:
        """Answer one question about one region or about several together.

        Args:
            image: as for :meth:`describe`.
            regions: as for :meth:`describe`; at least one.
            question: names the regions ``<Prompt0>``, ``<Prompt1>``, ... in their order.
            max_new_tokens: as for :meth:`describe`.
            temperature: as for :meth:`describe`.
            seed: as for :meth:`describe`.
            top_k: as for :meth:`describe`.
            top_p: as for :meth:`describe`.
            num_beams: as for :meth:`describe`.
            length_penalty: as for :meth:`describe`.
            early_stopping: as for :meth:`describe`.
            stop: as for :meth:`describe`.

        Raises:
            FileNotFoundError, TypeError, ValueError, NotImplementedError: as for :meth:`describe`.
        """
        sampling = Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            top_k=top_k,
            top_p=top_p,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            stop=stop,
            keep_special=self.answers_keep_special,
        )
        self.check_sampling(sampling)
        if not isinstance(question, str):
            raise TypeError(f"question: expected str, got {type(question).__name__}")
        pixels = single_image(self, image)
        found = tuple(as_regions(regions, pixels.shape[:2]))
        request = RegionRequest(pixels, found, question, joint=True)
        return generate_answers(self, [request], sampling)[0].text

    def score(
        self,
        image: ImageSource,
        regions: Any,
        texts: str | Sequence[str],
        prompt: str | None = None,
    ) -> float | list[float]:
        """How likely the model finds texts: mean log-probability per token, at most 0.

        Args:
            image: as for :meth:`describe`.
            regions: one region, or a list; a region that comes several times is encoded once.
            texts: one text, or a list with one for each region.
            prompt: what the texts answer; as for :meth:`describe`.

        Returns:
            One number for one region and text, else a list.

        Raises:
            FileNotFoundError, TypeError, ValueError, NotImplementedError: as for :meth:`describe`.
        """
        one_text = isinstance(texts, str)
        wanted = [texts] if isinstance(texts, str) else list(texts)
        for text in wanted:
            if not isinstance(text, str):
                raise TypeError(f"text: expected str, got {type(text).__name__}")
            if not text.strip():
                raise ValueError("text: is blank")
        pixels = single_image(self, image)
        found = as_regions(regions, pixels.shape[:2])
        if len(found) != len(wanted):
            raise ValueError(
                f"text: expected one for each of {len(found)} regions, got {len(wanted)}"
            )
        scores: list[float] = []
        kept: dict[Any, Any] = {}
        for start in range(0, len(found), self.batch_size):
            part = slice(start, start + self.batch_size)
            scores += score_texts(self, pixels, found[part], wanted[part], prompt, kept)
        return scores[0] if one_text and is_one_region(regions, pixels.shape[:2]) else scores

    def freeze(self, *patterns: str) -> list[str]:
        """Choose what is trained: parameters whose published names fit a pattern are not.

        All others are; a later call decides anew.

        Args:
            patterns: as in a shell, such as ``"vision_tower.*"`` or ``"*.layers.0.*"``; none
                unfreezes everything.

        Returns:
            The published names of the parameters that are trained.

        Raises:
            ValueError: a pattern that no name fits.
        """
        named = {self.layout.published(name): p for name, p in self.model.named_parameters()}
        require_fit("patterns", patterns, named)
        for name, parameter in named.items():
            parameter.requires_grad_(not fits(name, patterns))
        return [name for name, parameter in named.items() if parameter.requires_grad]

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None
    ) -> None:
        """Save everything :func:`fastregion.load` needs; see :func:`checkpoint.save_folder`.

        Args:
            folder: made if it does not exist.
            dtype: floating-point type of the saved weights; None keeps theirs.
        """
        checkpoint.save_folder(
            folder,
            config=self.config.to_dict(),
            model=self.model,
            tokenizer=self.tokenizer,
            dtype=dtype,
            layout=self.layout,
            texts=self.texts(),
        )

    def texts(self) -> dict[str, str]:
        """Further files of the model's folder, by name."""
        return {}

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        model_id: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Load what :meth:`save_pretrained` wrote, or a published checkpoint of this model.

        Args:
            folder: the folder.
            model_id: name for people; the folder's by default.
            dtype: floating-point type of the weights in memory; None for the model's own choice.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a file is damaged, or the folder holds another kind of model.
        """
        values = checkpoint.read_config(folder, cls.model_type)
        captioner = cls.without_weights(Path(folder), cls.config_class.from_dict(values), dtype)
        captioner.model_id = model_id or Path(folder).resolve().name
        load_weights(captioner.model, folder, captioner.layout)
        return captioner

    @classmethod
    def without_weights(cls, folder: Path, config: Any, dtype: torch.dtype | None) -> Self:
        """Build the captioner of a folder, in this dtype, from everything but the weights."""
        captioner = cls(config, Tokenizer.from_file(folder))
        captioner.model.to(dtype)
        return captioner
