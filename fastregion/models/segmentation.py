"""All segments of an image, by a captioner that finds them, or from proposed regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from fastregion.images import ImageSource, RgbImage, load_image
from fastregion.models.base import Captioner
from fastregion.models.categories import UNNAMED
from fastregion.models.segment import Segment
from fastregion.regions import Region

__all__ = ["Segmentation", "Segmenter", "segment_image"]

Proposer = Callable[[RgbImage], Sequence[Region]]


@runtime_checkable
class Segmenter(Protocol):
    """A captioner that finds segments by itself, such as Pix2Cap."""

    def segment(self, image: ImageSource) -> list[Segment]:
        """Segments that do not overlap, with categories and captions."""
        ...


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The segments of an image, and who found and who described them.

    Attributes:
        image: uint8 RGB ``[H, W, 3]``.
        segments: not overlapping.
        found_by: the model, or in words what proposed the regions.
        described_by: the captioner.
    """

    image: RgbImage
    segments: tuple[Segment, ...]
    found_by: str
    described_by: str

    def to_dict(self) -> dict[str, Any]:
        """Everything but the image, as plain JSON-able values."""
        return {
            "found_by": self.found_by,
            "described_by": self.described_by,
            "segments": [segment.to_dict() for segment in self.segments],
        }


def segment_image(
    captioner: Captioner,
    image: ImageSource,
    *,
    propose: Proposer | None = None,
    proposer: str = "",
) -> Segmentation:
    """Find and describe everything in an image.

    Args:
        captioner: one with a ``segment`` of its own does all of it.
        image: anything :func:`fastregion.images.load_image` reads.
        propose: for other captioners, finds regions that do not overlap, such as
            :func:`fastregion.regions.proposals.propose_regions`; their segments have no category
            and no score.
        proposer: what to call it.

    Raises:
        NotImplementedError: the captioner describes given regions only, and ``propose`` is None.
        FileNotFoundError, TypeError, ValueError, ImportError: as for ``load_image`` and
            ``propose``.
    """
    pixels = load_image(image)
    name = captioner.model_id
    if isinstance(captioner, Segmenter):
        return Segmentation(pixels, tuple(captioner.segment(pixels)), name, name)
    if propose is None:
        raise NotImplementedError(
            f"model: {name} describes given regions and finds none; load a Pix2Cap model, or pass "
            "propose=fastregion.regions.proposals.propose_regions"
        )
    regions = list(propose(pixels))
    texts = captioner.describe(pixels, regions)
    found = tuple(
        Segment.of(region, id=number, category=UNNAMED, caption=text)
        for number, (region, text) in enumerate(zip(regions, texts, strict=True), start=1)
    )
    return Segmentation(pixels, found, proposer, name)
