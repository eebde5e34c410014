"""A region: which pixels of an image are meant, and what is known about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastregion.regions._backend import Bits, IntBox, backend, num_threads
from fastregion.regions.masks import mask_values, to_numpy
from fastregion.regions.outlines import (
    BoxOutline,
    Outline,
    PointsOutline,
    PolygonsOutline,
    numbers,
)
from fastregion.regions.preview import preview_html
from fastregion.regions.rle import CompressedRle, bits_from_rle, rle_from_bits
from fastregion.regions.sizes import Size, check_size

BOUNDARY_FRACTION = 0.02
"""Default width of a boundary, of the image's diagonal (boundary IoU)."""


@dataclass(frozen=True, eq=False, repr=False)
class Region:
    """Pixels of an image, packed one bit each, with an optional id, label and score.

    Make one with ``Region.from_mask``, ``from_box``, ``from_points``, ``from_polygon``,
    ``from_rle``, ``from_label_map``, ``from_coco`` or ``from_sam``. A region made from coordinates
    without an image size is *unbound*: it becomes pixels with :meth:`bind`, which the functions
    that take an image and regions call by themselves.

    Regions are immutable, hashable and picklable. Two are equal when their pixels, size, id, label
    and score are.

    Attributes:
        bits: packed rows, uint64 ``[H, ceil(W / 64)]``, read-only: pixel (y, x) is bit ``x % 64``
            of ``bits[y, x // 64]``, and bits past the width are 0. None while unbound.
        width: width of the image in pixels; None while unbound.
        outline: the coordinates of an unbound region; None once bound.
        id: an identifier of the caller's.
        label: a class name or number.
        score: a confidence.
    """

    bits: Bits | None
    width: int | None
    outline: Outline | None = None
    id: int | str | None = None
    label: int | str | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        if self.bits is not None:
            self.bits.flags.writeable = False
        if self.score is not None:
            try:
                score = float(self.score)
            except (TypeError, ValueError):
                raise TypeError(f"score: must be a number, got {self.score!r}") from None
            object.__setattr__(self, "score", score)

    # ---- making one --------------------------------------------------------------------------

    @classmethod
    def from_mask(
        cls,
        mask: Any,
        size: Size | None = None,
        *,
        id: int | str | None = None,
        label: int | str | None = None,
        score: float | None = None,
    ) -> Region:
        """Make a region of a mask ``[H, W]``.

        Args:
            mask: bool, integer or floating-point array or tensor, PIL image, or the path of a mask
                image. :mod:`fastregion.regions.masks` says which values are inside.
            size: (height, width) of the image, which the mask must match if it is given.
            id: an identifier to keep.
            label: a class name or number to keep.
            score: a confidence to keep.

        Raises:
            FileNotFoundError: no such file.
            TypeError: a type or dtype that is no mask.
            ValueError: another shape, several channels, NaN, values of no mask, a damaged file.
        """
        values = mask_values(mask, size)
        bits = backend().pack(values.view(np.uint8))
        return cls(bits, values.shape[1], id=id, label=label, score=score)

    @classmethod
    def from_box(
        cls,
        box: Any,
        size: Size | None = None,
        *,
        id: int | str | None = None,
        label: int | str | None = None,
        score: float | None = None,
    ) -> Region:
        """Make a region of a box (x0, y0, x1, y1) in pixels with exclusive ends.

        Fractions are rounded to the nearest pixel edge; at least one pixel remains.

        Args:
            box: four numbers; other conventions are converted by ``xyxy_from_...``.
            size: (height, width) of the image; without it the region is unbound.
            id: an identifier to keep.
            label: a class name or number to keep.
            score: a confidence to keep.

        Raises:
            TypeError: not numbers.
            ValueError: not four, not finite, negative, x1 <= x0 or y1 <= y0, or outside the image.
        """
        outline = BoxOutline.from_numbers(box)
        return cls._from_outline(outline, size, id=id, label=label, score=score)

    @classmethod
    def from_points(
        cls,
        points: Any,
        size: Size | None = None,
        radius: float | None = None,
        *,
        id: int | str | None = None,
        label: int | str | None = None,
        score: float | None = None,
    ) -> Region:
        """Make one region of a small disc around each point.

        Args:
            points: (x, y) in pixels, or a list of them.
            size: (height, width) of the image; without it the region is unbound.
            radius: of the discs, in pixels; by default 2 % of the shorter side of the image, and at
                least 2 pixels.
            id: an identifier to keep.
            label: a class name or number to keep.
            score: a confidence to keep.

        Raises:
            TypeError: not numbers.
            ValueError: not pairs, not finite, negative or outside the image; a negative radius.
        """
        outline = PointsOutline.from_numbers(points, radius)
        return cls._from_outline(outline, size, id=id, label=label, score=score)

    @classmethod
    def from_polygon(
        cls,
        polygons: Any,
        size: Size | None = None,
        *,
        id: int | str | None = None,
        label: int | str | None = None,
        score: float | None = None,
    ) -> Region:
        """Make one region of a polygon, or of the union of several, filled as COCO fills them.

        Args:
            polygons: x0, y0, x1, y1, ... or ``[K, 2]`` in pixels, or a list of either. What leaves
                the image is cut off.
            size: (height, width) of the image; without it the region is unbound.
            id: an identifier to keep.
            label: a class name or number to keep.
            score: a confidence to keep.

        Raises:
            TypeError: not numbers.
            ValueError: fewer than three points, or coordinates that are not finite.
        """
        outline = PolygonsOutline.from_numbers(polygons)
        return cls._from_outline(outline, size, id=id, label=label, score=score)

    @classmethod
    def from_rle(
        cls,
        rle: Mapping[str, Any],
        size: Size | None = None,
        *,
        id: int | str | None = None,
        label: int | str | None = None,
        score: float | None = None,
    ) -> Region:
        """Make a region of a COCO RLE, compressed (``str`` or ``bytes``) or not (list).

        Args:
            rle: ``{"size": [height, width], "counts": ...}``.
            size: (height, width) of the image, which the RLE must match if it is given.
            id: an identifier to keep.
            label: a class name or number to keep.
            score: a confidence to keep.

        Raises:
            TypeError: not a dict, or counts of another type.
            ValueError: missing keys, another size, or counts that are malformed or do not sum to
                the size.
        """
        bits, (_, width) = bits_from_rle(rle, size)
        return cls(bits, width, id=id, label=label, score=score)

    @classmethod
    def from_label_map(cls, labels: Any) -> list[Region]:
        """Make one region per label of an integer map ``[H, W]``, ascending; 0 is background.

        The label becomes the region's ``id``.

        Raises:
            TypeError: not integers.
            ValueError: another shape, or negative labels.
        """
        array = to_numpy("labels", labels)
        if array.dtype.kind not in "iu":
            raise TypeError(f"labels: must be integers, got {array.dtype}")
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"labels: expected shape (height, width), got {array.shape}")
        values = np.unique(array)
        if values[0] < 0:
            raise ValueError(f"labels: must not be negative, got {values[0]}")
        return [cls.from_mask(array == value, id=int(value)) for value in values if value != 0]

    @classmethod
    def from_coco(cls, annotation: Mapping[str, Any], size: Size | None = None) -> Region:
        """Make a region of a COCO annotation or result.

        ``segmentation`` (polygons or RLE) decides; without it, ``bbox`` (x, y, width, height). The
        annotation's ``id``, ``category_id`` (as label) and ``score`` are kept.

        Args:
            annotation: the dict.
            size: (height, width) of the image; an RLE must agree with it. Without it, a region from
                polygons or a box is unbound.

        Raises:
            TypeError: not a dict, or values of other types.
            ValueError: neither key, malformed values, or an RLE of another size.
        """
        if not isinstance(annotation, Mapping):
            raise TypeError(f"annotation: must be a dict, got {type(annotation).__name__}")
        known: dict[str, Any] = {
            "id": annotation.get("id"),
            "label": annotation.get("category_id"),
            "score": annotation.get("score"),
        }
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, Mapping):
            return cls.from_rle(segmentation, size, **known)
        no_polygons = isinstance(segmentation, list | tuple) and not segmentation
        if segmentation is not None and not no_polygons:
            return cls.from_polygon(segmentation, size, **known)
        if annotation.get("bbox") is not None:
            x, y, width, height = numbers("bbox", annotation["bbox"], 4)
            return cls.from_box((x, y, x + width, y + height), size, **known)
        raise ValueError(
            "annotation: must have a segmentation or a bbox, "
            f"got the keys {sorted(map(str, annotation))}"
        )

    @classmethod
    def from_sam(cls, record: Mapping[str, Any], size: Size | None = None) -> Region:
        """Make a region of a record of SAM's automatic mask generator.

        ``segmentation`` (mask or RLE) decides; ``bbox`` is not read (its ends are inclusive, see
        ``xyxy_from_sam``). ``predicted_iou`` becomes the score.

        Args:
            record: the dict.
            size: (height, width) of the image, which the segmentation must match if it is given.

        Raises:
            TypeError: not a dict, or a segmentation of another type.
            ValueError: no segmentation, a malformed one, or one of another size.
        """
        if not isinstance(record, Mapping):
            raise TypeError(f"record: must be a dict, got {type(record).__name__}")
        if "segmentation" not in record:
            raise ValueError(
                f"record: must have a segmentation, got the keys {sorted(map(str, record))}"
            )
        segmentation = record["segmentation"]
        known: dict[str, Any] = {"id": record.get("id"), "score": record.get("predicted_iou")}
        if isinstance(segmentation, Mapping):
            return cls.from_rle(segmentation, size, **known)
        return cls.from_mask(segmentation, size, **known)

    @classmethod
    def _from_outline(cls, outline: Outline, size: Size | None, **known: Any) -> Region:
        region = cls(None, None, outline, **known)
        return region if size is None else region.bind(size)

    def bind(self, size: Size) -> Region:
        """Return this region as pixels of an image of ``size`` (height, width).

        Raises:
            ValueError: the region belongs to an image of another size, or does not fit this one.
        """
        height, width = check_size("size", size)
        if self.outline is not None:
            return replace(
                self, bits=self.outline.paint((height, width)), width=width, outline=None
            )
        if self.size != (height, width):
            raise ValueError(
                f"mask: expected shape {(height, width)} to match the image, got {self.size}"
            )
        return self

    # ---- making another of it ----------------------------------------------------------------

    def resize(self, size: Size) -> Region:
        """Return this region in the image resized to ``size`` (height, width).

        Each pixel takes the value of the pixel at floor(i * H / height), floor(j * W / width): the
        nearest one that does not lie ahead. Shrinking may lose thin regions.

        Raises:
            TypeError: the size is not two integers.
            ValueError: the region is unbound, or the size is not positive.
        """
        bits, width = self.pixels()
        height, new_width = check_size("size", size)
        resized = backend().resize(bits, width, height, new_width, num_threads())
        return replace(self, bits=resized, width=new_width)

    def boundary(self, width: int | None = None) -> Region:
        """Return the pixels of this region at most ``width`` pixels from its edge.

        As boundary IoU has it: the region minus its erosion by ``width`` pixels in every direction,
        diagonals included. Where the region touches the edge of the image is edge too.

        Args:
            width: in pixels; by default 2 % of the image's diagonal, and at least 1.

        Raises:
            TypeError: a width that is no integer.
            ValueError: the region is unbound, or the width is less than 1.
        """
        bits, columns = self.pixels()
        if width is None:
            width = max(1, round(BOUNDARY_FRACTION * math.hypot(len(bits), columns)))
        if isinstance(width, bool) or not isinstance(width, int | np.integer):
            raise TypeError(f"width: must be an integer, got {width!r}")
        if width < 1:
            raise ValueError(f"width: must be at least 1, got {width}")
        return replace(self, bits=backend().boundary(bits, columns, int(width), num_threads()))

    # ---- what it is --------------------------------------------------------------------------

    @property
    def size(self) -> Size | None:
        """(height, width) of the image in pixels; None while unbound."""
        return None if self.bits is None or self.width is None else (len(self.bits), self.width)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask, bool ``[H, W]``: a new array at every call."""
        return backend().unpack(*self.pixels())

    @cached_property
    def rle(self) -> CompressedRle:
        """The mask as compressed COCO RLE: ``{"size": [height, width], "counts": str}``."""
        return rle_from_bits(*self.pixels())

    @property
    def box(self) -> IntBox:
        """The smallest box around the pixels, (x0, y0, x1, y1) with exclusive ends.

        Zeros if there are none. An unbound region of a box has one too, on the pixel grid.
        """
        if isinstance(self.outline, BoxOutline):
            return self.outline.xyxy
        return self._extent[1]

    @property
    def area(self) -> int:
        """The number of pixels."""
        return self._extent[0]

    @cached_property
    def centroid(self) -> tuple[float, float]:
        """The mean (x, y) of the pixel centres, which lie at +0.5; NaN if there are no pixels."""
        bits, width = self.pixels()
        if self.area == 0:
            return float("nan"), float("nan")
        x, y = backend().coordinate_sums(bits, width)
        return x / self.area + 0.5, y / self.area + 0.5

    @cached_property
    def _extent(self) -> tuple[int, IntBox]:
        return backend().extent(*self.pixels())

    def pixels(self) -> tuple[Bits, int]:
        """Return (bits, width); ValueError while unbound."""
        if self.bits is None or self.width is None:
            raise ValueError(
                "region: is not bound to an image yet; call region.bind((height, width)) first"
            )
        return self.bits, self.width

    def to_dict(self) -> dict[str, Any]:
        """Return what is known of it, box, area and RLE as plain JSON-able values."""
        known = {"id": self.id, "label": self.label, "score": self.score}
        return {
            **{name: value for name, value in known.items() if value is not None},
            "box": [int(edge) for edge in self.box],
            "area": int(self.area),
            "rle": self.rle,
        }

    # ---- being a value -----------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Region):
            return NotImplemented
        if self._key() != other._key():
            return False
        return self.bits is None or other.bits is None or np.array_equal(self.bits, other.bits)

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        extent = None if self.bits is None else self._extent
        return self.size, extent, self.outline, self.id, self.label, self.score

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __repr__(self) -> str:
        known = {"id": self.id, "label": self.label, "score": self.score}
        shown = [f"{key}={value!r}" for key, value in known.items() if value is not None]
        if self.bits is None:
            return f"{type(self).__name__}({', '.join([repr(self.outline), *shown])})"
        pixels = [f"box={self.box}", f"area={self.area}", f"size={self.size}"]
        return f"{type(self).__name__}({', '.join(pixels + shown)})"

    def _repr_html_(self) -> str:
        text = f"<code>{escape(repr(self))}</code>"
        return text if self.bits is None else f"{preview_html(self.mask)} {text}"
