"""What a captioner is asked, checked when made: an image with regions, and how to choose words."""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastregion import language
from fastregion.images import ImageSource, RgbImage, load_image
from fastregion.language import EarlyStopping
from fastregion.regions import Region, as_regions
from fastregion.regions.coercion import EmptyRegionError

__all__ = [
    "ImagesRequest",
    "RegionRequest",
    "Request",
    "Sampling",
    "TooManyRegionsError",
    "VideoRequest",
    "check_int",
    "is_one_region",
]

_PLACEHOLDER = re.compile(r"<Prompt(\d+)>")


class TooManyRegionsError(ValueError):
    """A question about more regions together than the model has names for."""

    def __init__(self, model_id: str, most: int, got: int) -> None:
        super().__init__(
            f"regions: {model_id} answers questions about at most {most} regions together, "
            f"got {got}"
        )


@dataclass(frozen=True, eq=False)
class RegionRequest:
    """One image, its regions and what to say about them.

    Attributes:
        image: uint8 RGB ``[H, W, 3]``; not to be modified.
        regions: at least one region, each bound to ``(H, W)``.
        instruction: what to say; None for the model's default, a detailed description. The regions
            are named ``<Prompt0>``, ``<Prompt1>``, ... in it.
        joint: if False, every region gets a prompt (and an answer) of its own, in which it is
            ``<Prompt0>``; if True, one prompt speaks about all regions.
        share: prompts may share one image with all their regions marked in it.
        kept: what the model keeps of the image between the parts of this request. It holds for
            the same weights, dtype and device: make a new request for others.

    Raises:
        TypeError: a field of another type or dtype.
        ValueError: no region, a region of another size than the image, a blank instruction, or one
            that names a region which is not there.
    """

    image: RgbImage
    regions: tuple[Region, ...]
    instruction: str | None = None
    joint: bool = False
    share: bool = False
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        shape, dtype = np.shape(self.image), getattr(self.image, "dtype", None)
        if dtype != np.uint8:
            raise TypeError(f"image: dtype must be uint8, got {dtype}")
        if len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"image: expected shape [H, W, 3], got {shape}")
        if not self.regions:
            raise ValueError("regions: expected at least one region, got none")
        for index, region in enumerate(self.regions):
            if not isinstance(region, Region):
                raise TypeError(f"regions: expected Region, got {type(region).__name__} at {index}")
            if region.size != shape[:2]:
                raise ValueError(
                    f"regions: region {index} must have size {shape[:2]} (height, width) to match "
                    f"the image, got {region.size}"
                )
        _check_instruction(self.instruction, len(self.regions) if self.joint else None)

    @property
    def subjects(self) -> list[tuple[RgbImage, Region]]:
        """What each answer is about, with its picture."""
        return [(self.image, region) for region in self.regions]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[0], self.image.shape[1]

    def split(self, batch_size: int) -> Iterator[RegionRequest]:
        """The same request in parts of at most ``batch_size`` regions; a joint one stays whole."""
        step = len(self.regions) if self.joint else batch_size
        for start in range(0, len(self.regions), step):
            yield replace(self, regions=self.regions[start : start + step])


@dataclass(frozen=True, eq=False)
class VideoRequest:
    """Frames of a video, objects in it and what to say about them.

    Attributes:
        frames: uint8 RGB ``[H, W, 3]``, all of one size.
        objects: for each object its region in every frame, or None where it is not to be seen.
        instruction: as for :class:`RegionRequest`; each object is described by itself.

    Raises:
        ValueError: no frame, frames or regions of several sizes, another number of regions than
            frames, an object that is in no frame, or a bad instruction.
    """

    frames: tuple[RgbImage, ...]
    objects: tuple[tuple[Region | None, ...], ...]
    instruction: str | None = None

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("image: expected at least one frame, got none")
        size = self.frames[0].shape
        for index, frame in enumerate(self.frames):
            if frame.shape != size:
                raise ValueError(
                    f"image: all frames must be of size {size[:2]}, got {frame.shape[:2]} "
                    f"at {index}"
                )
        if not self.objects:
            raise ValueError("regions: expected at least one object, got none")
        for index, regions in enumerate(self.objects):
            _check_per_frame(regions, len(self.frames))
            if all(region is None for region in regions):
                raise ValueError(
                    f"regions: object {index} must be in at least one frame that is looked at, "
                    f"got no pixel in {len(self.frames)}"
                )
            for region in regions:
                if region is not None and region.size != size[:2]:
                    raise ValueError(
                        f"regions: must have size {size[:2]} (height, width) to match the frames, "
                        f"got {region.size}"
                    )
        _check_instruction(self.instruction, None)

    @classmethod
    def of(
        cls,
        frames: Sequence[ImageSource],
        regions: Any,
        instruction: str | None,
        chosen: Sequence[int] | None = None,
    ) -> tuple[VideoRequest, bool]:
        """Read what a caller gives as frames and regions; also, whether that is one object.

        Args:
            frames: what ``load_image`` takes.
            regions: of one object, a list (or an array of masks or boxes) with a region for each
                frame: what ``as_regions`` takes, None, or a mask without a pixel; or a list of such
                lists.
            instruction: as the field.
            chosen: the frames of the request; only these, and regions in them, are read. None: all.

        Raises:
            FileNotFoundError, TypeError, ValueError: as for ``load_image``, ``as_regions`` and the
                class.
        """
        if not frames:
            raise ValueError("image: expected at least one frame, got none")
        chosen = range(len(frames)) if chosen is None else chosen
        images = tuple(load_image(frames[k]) for k in chosen)
        size = images[0].shape[:2]
        shape = getattr(regions, "shape", None)
        if not isinstance(regions, (list, tuple)) and not shape:
            raise TypeError(
                "regions: of a video, expected a list with a region for each frame, "
                f"got {type(regions).__name__}"
            )
        if shape is not None and len(shape) == 2 and shape[1] not in (2, 4):  # not rows of a mask
            raise ValueError(
                f"regions: of a video, expected masks [{len(frames)}, {size[0]}, {size[1]}] or "
                f"boxes [{len(frames)}, 4], got shape {tuple(shape)}"
            )
        given = list(regions)
        one = all(
            region is None or is_one_region(region, size) or _is_some_mask(region)
            for region in given
        )
        by_object = [given] if one else given
        for index, of_one in enumerate(by_object):
            if not isinstance(of_one, (list, tuple)) and not getattr(of_one, "shape", None):
                raise TypeError(
                    "regions: of a video, expected a region for each frame or a list of such "
                    f"lists, got {type(of_one).__name__} at {index}"
                )
        objects = []
        for of_one in by_object:
            _check_per_frame(of_one, len(frames))
            objects.append(tuple(_region_or_none(of_one[k], size) for k in chosen))
        return cls(images, tuple(objects), instruction), one

    def select(self, chosen: Sequence[int]) -> VideoRequest:
        """The same request about some of its frames."""
        return replace(
            self,
            frames=tuple(self.frames[k] for k in chosen),
            objects=tuple(tuple(regions[k] for k in chosen) for regions in self.objects),
        )

    @property
    def subjects(self) -> list[tuple[RgbImage, Region]]:
        """Of each object, the frame that shows most of it and its region there."""
        found = []
        for regions in self.objects:
            seen = [
                (frame, region)
                for frame, region in zip(self.frames, regions, strict=True)
                if region is not None
            ]
            found.append(max(seen, key=lambda pair: pair[1].area))
        return found

    def split(self, batch_size: int) -> Iterator[VideoRequest]:
        """The same request in parts of at most ``batch_size`` objects."""
        for start in range(0, len(self.objects), batch_size):
            yield replace(self, objects=self.objects[start : start + batch_size])


@dataclass(frozen=True, eq=False)
class ImagesRequest:
    """Regions of several images, for models that work on them at a time.

    Attributes:
        requests: at least one, none of them joint.
    """

    requests: tuple[RegionRequest, ...]

    @property
    def subjects(self) -> list[tuple[RgbImage, Region]]:
        """What each answer is about, with its picture."""
        return [subject for request in self.requests for subject in request.subjects]


Request = RegionRequest | VideoRequest | ImagesRequest


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen, and where a text ends; checked when made.

    Attributes:
        max_new_tokens: longest text, at least 1.
        temperature: 0 for the most likely token, or what logits are divided by before drawing.
        seed: makes drawing repeatable, in [0, 2**64); None draws from torch's global generator.
        top_k: draw from this many most likely tokens, at least 1; None for all.
        top_p: draw from the most likely tokens of this total probability, in (0, 1].
        num_beams: above 1, search for a likely text instead of choosing token by token.
        length_penalty: of beams; see :func:`fastregion.language.beam_search`.
        early_stopping: of beams; see :func:`fastregion.language.beam_search`.
        stop: a string or several that end a text and are not part of it.
        keep_special: special tokens are part of a text, the model's end tokens excepted.

    Raises:
        TypeError, ValueError: a field of another type or out of range.
    """

    max_new_tokens: int
    temperature: float
    seed: int | None
    top_k: int | None = None
    top_p: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    stop: str | Sequence[str] = ()
    keep_special: bool = False

    def __post_init__(self) -> None:
        check_int("max_new_tokens", self.max_new_tokens, at_least=1)
        if isinstance(self.temperature, bool) or not isinstance(self.temperature, (int, float)):
            raise TypeError(
                f"temperature: expected a number, got {type(self.temperature).__name__}"
            )
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature: must be 0 (greedy) or positive, got {self.temperature}")
        if self.seed is not None:
            check_int("seed", self.seed, at_least=0)
            if self.seed >= 2**64:
                raise ValueError(f"seed: must be below 2**64, got {self.seed}")
        language.Sampler(self.temperature, self.top_p, None, self.top_k)  # checks its fields
        language.check_beams(self.num_beams, self.length_penalty, self.early_stopping)
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(
                f"num_beams: must be 1 when drawing (temperature {self.temperature}), "
                f"got {self.num_beams}"
            )
        language.check_stop(self.stop)

    def per_token(self) -> dict[str, Any]:
        """What :func:`fastregion.language.stream_text` takes of it, the generator left out."""
        names = ("max_new_tokens", "temperature", "top_k", "top_p", "stop")
        return {name: getattr(self, name) for name in names}

    def beams(self) -> dict[str, Any]:
        """What :func:`fastregion.language.beam_texts` takes of it."""
        names = ("max_new_tokens", "num_beams", "length_penalty", "early_stopping", "stop")
        return {name: getattr(self, name) for name in names}

    def whole(self) -> dict[str, Any]:
        """What :func:`fastregion.language.generate_text` takes of it, the generator left out."""
        return self.per_token() | self.beams()

    def generator(self, device: torch.device) -> torch.Generator | None:
        """A generator of its own for a seed, else None."""
        if self.seed is None:
            return None
        return torch.Generator(device).manual_seed(self.seed)


def is_one_region(regions: Any, size: tuple[int, int]) -> bool:
    """Whether ``as_regions`` was given one region, which wants one answer, or a collection.

    Args:
        regions: something that it accepts for an image of this size.
        size: height and width of the image.
    """
    if isinstance(regions, (list, tuple)):
        return all(isinstance(number, numbers.Real) for number in regions)  # a box or a point
    shape = getattr(regions, "shape", None)
    if shape is not None:  # not [N, H, W] masks, [N, 4] boxes or [N, 2] points
        return len(shape) == 1 or tuple(shape) in (size, (*size, 1))
    return isinstance(regions, (Region, Image.Image, str, os.PathLike, Mapping))


def check_int(name: str, value: Any, *, at_least: int) -> None:
    """Raise unless ``value`` is an integer of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if value < at_least:
        raise ValueError(f"{name}: must be at least {at_least}, got {value}")


def _check_instruction(instruction: str | None, num_regions: int | None) -> None:
    """``num_regions`` of a joint prompt, None where each region has its own."""
    if instruction is None:
        return
    if not isinstance(instruction, str):
        raise TypeError(f"prompt: expected str or None, got {type(instruction).__name__}")
    if not instruction.strip():
        raise ValueError("prompt: is blank; leave it out for the default description")
    known, where = 1, "region is described at a time"
    if num_regions is not None:
        known, where = num_regions, f"region{'s were' if num_regions > 1 else ' was'} given"
    for number in _PLACEHOLDER.findall(instruction):
        if int(number) >= known:
            raise ValueError(f"prompt: names <Prompt{number}>, but only {known} {where}")


def _is_some_mask(region: Any) -> bool:
    """Whether it is an array like a mask, of whatever size, and no list of boxes or points."""
    shape: tuple[int, ...] = getattr(region, "shape", ())
    return len(shape) == 2 and shape[-1] not in (2, 4)


def _check_per_frame(regions: Sequence[Any], num_frames: int) -> None:
    if len(regions) != num_frames:
        raise ValueError(
            f"regions: expected one for each of {num_frames} frames, got {len(regions)}"
        )


def _region_or_none(region: Any, size: tuple[int, int]) -> Region | None:
    """A region of one frame; None if it is None or without a pixel."""
    if region is None:
        return None
    try:
        return as_regions([region], size)[0]
    except EmptyRegionError:
        return None
