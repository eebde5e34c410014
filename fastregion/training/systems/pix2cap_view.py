"""Pix2Cap's training views: a picture is flipped, scaled, and cropped or padded to a square."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastregion.images import RgbImage, resize_image
from fastregion.models.pix2cap.processing import resize
from fastregion.regions import Region
from fastregion.training.data import BadRow

__all__ = ["View", "id_map"]

_SCALES = (0.1, 2.0)
_OUTSIDE = 128  # grey beyond the picture


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of a picture.

    Attributes:
        side: S, pixels a side; 1024 in the published training.
        flip: mirror left and right.
        scale: of the square that the picture is made to fit into, in [0.1, 2] of S pixels.
        offset: where the crop lies between the first and the last place, in [0, 1], for rows and
            columns alike.
    """

    side: int
    flip: bool
    scale: float
    offset: float

    @classmethod
    def draw(cls, side: int, rng: np.random.Generator) -> View:
        """Draw one as the published training does."""
        return cls(
            side=side,
            flip=bool(rng.random() < 0.5),
            scale=float(rng.uniform(*_SCALES)),
            offset=float(rng.random()),
        )

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """What a picture of this (height, width) is resized to."""
        factor = min(self.scale * self.side / side for side in size)
        height, width = (max(int(np.round(side * factor)), 1) for side in size)
        return height, width

    def image(self, image: RgbImage) -> RgbImage:
        """The picture's view, uint8 ``[S, S, 3]``."""
        return self._crop(resize(self._flipped(image), self.size(image.shape[:2])), _OUTSIDE)

    def ids(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The same view ``[S, S]`` of a map of segment numbers; 0 beyond the picture."""
        resized = resize_image(self._flipped(ids), self.size(ids.shape), Image.Resampling.NEAREST)
        return self._crop(resized, 0)

    def _flipped(self, values: NDArray[Any]) -> NDArray[Any]:
        return values[:, ::-1] if self.flip else values

    def _crop(self, values: NDArray[Any], outside: int) -> NDArray[Any]:
        top, left = (
            int(np.round(max(side - self.side, 0) * self.offset)) for side in values.shape[:2]
        )
        cut = values[top : top + self.side, left : left + self.side]
        view = np.full((self.side, self.side, *values.shape[2:]), outside, values.dtype)
        view[: cut.shape[0], : cut.shape[1]] = cut
        return view


def id_map(regions: Sequence[Region], size: tuple[int, int]) -> NDArray[np.int32]:
    """Numbers of segments ``[H, W]``, from 1 on in their order; 0 where there is none.

    Raises:
        BadRow: a region of another size, or two that overlap, which segments do not.
    """
    ids = np.zeros(size, np.int32)
    for number, region in enumerate(regions, start=1):
        if region.size != size:
            raise BadRow(
                f"mask: expected shape {size} to match the image, got {region.size}",
                "size mismatch",
            )
        mask = region.mask
        if (taken := ids[mask]).any():
            raise BadRow(
                f"masks: segments must not overlap, but those of region {taken.max() - 1} and "
                f"region {number - 1} do",
                "malformed mask",
            )
        ids[mask] = number
    return ids
