"""What Pix2Cap shall predict for an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Targets"]


@dataclass(frozen=True, eq=False)
class Targets:
    """The annotated segments of one image.

    Attributes:
        classes: int64 ``[T]``, indices of the model's classes.
        masks: bool ``[T, H, W]`` at the size of the model's input; may be empty after a crop.
        captions: T texts.

    Raises:
        TypeError: another dtype.
        ValueError: shapes that do not fit.
    """

    classes: Tensor
    masks: Tensor
    captions: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.classes.dtype != torch.long:
            raise TypeError(f"classes: dtype must be int64, got {self.classes.dtype}")
        if self.masks.dtype != torch.bool:
            raise TypeError(f"masks: dtype must be bool, got {self.masks.dtype}")
        count = len(self.captions)
        if self.classes.shape != (count,) or self.masks.dim() != 3 or len(self.masks) != count:
            raise ValueError(
                f"targets: expected classes [{count}] and masks [{count}, H, W] for {count} "
                f"captions, got {tuple(self.classes.shape)} and {tuple(self.masks.shape)}"
            )

    def to(self, device: torch.device | str) -> Targets:
        """Move the tensors."""
        return Targets(self.classes.to(device), self.masks.to(device), self.captions)

    def padded_masks(self, size: tuple[int, int]) -> Tensor:
        """The masks ``[T, height, width]``, nothing at the right and at the bottom."""
        height, width = size
        missing = (0, width - self.masks.shape[2], 0, height - self.masks.shape[1])
        if min(missing) < 0:
            raise ValueError(
                f"masks: must be at most {size} to fit the batch, got {tuple(self.masks.shape[1:])}"
            )
        return F.pad(self.masks, missing)
