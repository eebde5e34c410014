"""Segments of an image: regions that do not overlap, each with a category and a caption."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fastregion.images import RgbImage, check_output_path
from fastregion.models.categories import UNNAMED, Category
from fastregion.models.drawing import draw_captions, draw_segments
from fastregion.regions import Region

__all__ = ["Segment", "plot_segments"]


@dataclass(frozen=True, eq=False, repr=False)
class Segment(Region):
    """A region that is one thing, or all the stuff of one kind, in words.

    It goes wherever a region goes. ``str(segment)`` is the caption.

    Attributes:
        category: what it is; its name is also the ``label``.
        caption: what it looks like; empty where nobody has said.
        iscrowd: of annotations: several things in one segment, which nobody has told apart.
    """

    category: Category = UNNAMED
    caption: str = ""
    iscrowd: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.category, Category):
            raise TypeError(f"category: expected Category, got {type(self.category).__name__}")
        if not isinstance(self.caption, str):
            raise TypeError(f"caption: expected str, got {type(self.caption).__name__}")
        object.__setattr__(self, "label", self.category.name)

    @classmethod
    def of(
        cls,
        region: Region,
        *,
        id: int,
        category: Category,
        caption: str = "",
        score: float | None = None,
        iscrowd: bool = False,
    ) -> Segment:
        """Make a segment of a region's pixels; the region's own id, label and score are left."""
        return cls(
            region.bits,
            region.width,
            region.outline,
            id=id,
            score=score,
            category=category,
            caption=caption,
            iscrowd=iscrowd,
        )

    @property
    def line(self) -> str:
        """Category, where it has one, and caption."""
        name = "" if self.category == UNNAMED else self.category.name
        return ": ".join(part for part in (name, self.caption) if part)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON-able values."""
        region = super().to_dict()
        region.pop("label")
        return {
            **region,
            "category": self.category.name,
            "category_id": self.category.id,
            "isthing": self.category.isthing,
            "iscrowd": self.iscrowd,
            "caption": self.caption,
        }

    def __str__(self) -> str:
        return self.caption

    def _key(self) -> tuple[object, ...]:
        return (*super()._key(), self.category, self.caption, self.iscrowd)


def plot_segments(
    image: RgbImage,
    segments: Sequence[Segment],
    path: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Draw the segments of an image in colours, numbered, with category and caption of each.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        segments: bound to ``(H, W)``; of none, the picture says so.
        path: where to save the drawing; its suffix decides the format.

    Returns:
        The drawing, in RGB.

    Raises:
        ValueError: a segment of another size, or a path whose folder does not exist or whose suffix
            is no image format.
    """
    if path is not None:
        check_output_path(path)
    for index, segment in enumerate(segments):
        if segment.size != image.shape[:2]:
            raise ValueError(
                f"segments: segment {index} must have size {image.shape[:2]} to match the image, "
                f"got {segment.size}"
            )
    drawing = draw_captions(
        draw_segments(image, [segment.mask for segment in segments]),
        [segment.line for segment in segments] or ["No segments."],
        numbered=bool(segments),
    )
    if path is not None:
        drawing.save(path)
    return drawing
