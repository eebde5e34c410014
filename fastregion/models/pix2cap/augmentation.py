"""Pix2Cap's training views: a picture is flipped, scaled, and cropped or padded to 1024 x 1024."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fastregion.images import RgbImage, resize_image
from fastregion.models.categories import Category
from fastregion.models.pix2cap.processing import resize
from fastregion.models.pix2cap.targets import Targets
from fastregion.models.segment import Segment

__all__ = ["Augmentation", "may_be_learned", "training_view"]

_SIDE = 1024
_SCALES = (0.1, 2.0)
_OUTSIDE = 128  # grey beyond the picture
_SHORTEST_CAPTION = 3  # characters


@dataclass(frozen=True)
class Augmentation:
    """One view of a picture.

    Attributes:
        flip: mirror left and right.
        scale: of the square that the picture is made to fit into, in [0.1, 2] of 1024 pixels.
        offset: where the crop lies between the first and the last place, in [0, 1], for rows and
            columns alike.
    """

    flip: bool
    scale: float
    offset: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Augmentation:
        """Draw one as the published training does."""
        return cls(bool(rng.random() < 0.5), float(rng.uniform(*_SCALES)), float(rng.random()))

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """What a picture of this (height, width) is resized to."""
        factor = min(self.scale * _SIDE / side for side in size)
        height, width = (max(int(np.round(side * factor)), 1) for side in size)
        return height, width

    def image(self, image: RgbImage) -> RgbImage:
        """The picture's view, uint8 ``[1024, 1024, 3]``."""
        return self._crop(resize(self._flipped(image), self.size(image.shape[:2])), _OUTSIDE)

    def id_map(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The same view ``[1024, 1024]`` of a map of segment ids; 0 beyond the picture."""
        resized = resize_image(self._flipped(ids), self.size(ids.shape), Image.Resampling.NEAREST)
        return self._crop(resized, 0)

    def _flipped(self, values: NDArray[Any]) -> NDArray[Any]:
        return values[:, ::-1] if self.flip else values

    def _crop(self, values: NDArray[Any], outside: int) -> NDArray[Any]:
        top, left = (int(np.round(max(side - _SIDE, 0) * self.offset)) for side in values.shape[:2])
        cut = values[top : top + _SIDE, left : left + _SIDE]
        view = np.full((_SIDE, _SIDE, *values.shape[2:]), outside, values.dtype)
        view[: cut.shape[0], : cut.shape[1]] = cut
        return view


def may_be_learned(segments: Sequence[Segment]) -> bool:
    """Whether an image is trained on: all of its segments have captions of 3 characters or more."""
    return all(len(segment.caption) >= _SHORTEST_CAPTION for segment in segments)


def training_view(
    image: RgbImage,
    segments: Sequence[Segment],
    categories: Sequence[Category],
    augmentation: Augmentation,
) -> tuple[RgbImage, Targets]:
    """A picture and its segments as the model is trained on them.

    Segments that the crop has lost stay, as empty masks; crowds are left out.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        segments: of the image, not overlapping.
        categories: the model's classes in their order.
        augmentation: the view.

    Returns:
        uint8 ``[1024, 1024, 3]`` and the targets.

    Raises:
        ValueError: a segment of another size than the image, or of a category that is no class.
    """
    classes = {category: index for index, category in enumerate(categories)}
    learned = [segment for segment in segments if not segment.iscrowd]
    ids = np.zeros(image.shape[:2], np.int32)
    for number, segment in enumerate(learned, start=1):
        if segment.category not in classes:
            raise ValueError(f"segments: {segment.category.name!r} is no class of the model")
        if segment.size != image.shape[:2]:
            raise ValueError(
                f"segments: must have size {image.shape[:2]} to match the image, got {segment.size}"
            )
        ids[segment.mask] = number
    numbers = np.arange(1, len(learned) + 1, dtype=np.int32)[:, None, None]
    return augmentation.image(image), Targets(
        classes=torch.tensor([classes[segment.category] for segment in learned], dtype=torch.long),
        masks=torch.from_numpy(augmentation.id_map(ids) == numbers),
        captions=tuple(segment.caption for segment in learned),
    )
