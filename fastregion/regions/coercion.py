"""From whatever a user holds to regions of one image: the only place where that is decided.

=====================================  ==========================================================
given                                  becomes
=====================================  ==========================================================
Region                                 itself, bound to the image
bool, integer or float array/tensor
  of the image's shape                 a mask (also with a channel axis of length 1)
  ``[N, H, W]`` or ``[N, 1, H, W]``    N masks
  of 4 numbers, or ``[N, 4]``          boxes (x0, y0, x1, y1), exclusive ends
  of 2 numbers, or ``[N, 2]``          points (x, y)
list or tuple of 4 or 2 numbers        a box or a point
PIL image, path                        a mask, from an image or an ``.npy`` file
dict with ``counts``                   a COCO RLE
dict with ``segmentation`` or ``bbox`` a COCO annotation, or a record of SAM's mask generator
object with ``.mask`` or ``.xyxy``     its masks, else its boxes (supervision's ``Detections``)
list or tuple of all these             the regions of its items, in order
=====================================  ==========================================================

An array whose shape is that of the image is always a mask, also where it could be boxes. A list is
never a mask: nested lists of numbers are boxes and points.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastregion.regions.masks import is_pil_image, is_tensor, to_numpy
from fastregion.regions.outlines import is_number
from fastregion.regions.region import Region
from fastregion.regions.sizes import Size, check_size

ACCEPTED = (
    "a Region; a mask as bool, integer or float array or tensor [H, W] or [N, H, W], as PIL image "
    "or as path of an image or .npy file; a box of 4 numbers (x0, y0, x1, y1) or an array [N, 4]; "
    "a point of 2 numbers (x, y) or an array [N, 2]; a COCO RLE dict, COCO annotation dict or SAM "
    "dict; an object with .mask or .xyxy; or a list of these"
)

_SAM_KEYS = {"predicted_iou", "stability_score", "crop_box", "point_coords"}


class EmptyRegionError(ValueError):
    """A mask, or what became one, without a pixel."""


def as_regions(thing: Any, size: Size) -> list[Region]:
    """Return the regions that ``thing`` stands for, bound to an image and not empty.

    Args:
        thing: anything in the table of this module.
        size: (height, width) of the image in pixels.

    Raises:
        FileNotFoundError: a path that does not exist.
        TypeError: something not in the table; the message lists what is.
        ValueError: values that are no region of this image: another size, no pixel inside, several
            channels, NaN, coordinates outside, malformed RLE, a file that is no image. In a list,
            the message starts with the place: ``regions[2]: ...``.
    """
    size = check_size("size", size)
    if isinstance(thing, list | tuple) and not _is_coordinates(thing):
        if not thing:
            raise ValueError("regions: expected at least one region, got an empty list")
        return _gather(thing, lambda item: _from_item(item, size))
    return _from_item(thing, size)


def as_region(thing: Any, size: Size) -> Region:
    """Return the one region that ``thing`` stands for; see :func:`as_regions`.

    Raises:
        ValueError: also if it stands for several.
    """
    regions = as_regions(thing, size)
    if len(regions) != 1:
        raise ValueError(f"region: expected exactly one region, got {len(regions)}")
    return regions[0]


def _from_item(thing: Any, size: Size) -> list[Region]:
    """Everything but lists of regions."""
    if isinstance(thing, Region):
        return [_not_empty(thing.bind(size))]
    if isinstance(thing, str | os.PathLike) or is_pil_image(thing):
        return [_from_mask(thing, size)]
    if isinstance(thing, Mapping):
        return [_from_dict(thing, size)]
    if _is_coordinates(thing) or isinstance(thing, np.ndarray) or is_tensor(thing):
        return _from_array(to_numpy("region", thing), size)
    if getattr(thing, "mask", None) is not None or getattr(thing, "xyxy", None) is not None:
        return _from_detections(thing, size)
    if hasattr(thing, "__array__"):
        return _from_array(to_numpy("region", thing), size)
    raise TypeError(
        f"region: cannot use a value of type {type(thing).__name__}; accepted: {ACCEPTED}"
    )


def _from_array(array: NDArray[Any], size: Size) -> list[Region]:
    if array.size == 0:
        raise ValueError(
            f"regions: expected at least one region, got an empty array of shape {array.shape}"
        )
    if array.shape != size and array.dtype.kind != "b":
        if array.shape == (4,):
            return [_not_empty(Region.from_box(array, size))]
        if array.shape == (2,):
            return [_not_empty(Region.from_points(array, size))]
        if array.ndim == 2 and array.shape[1] in (2, 4):
            return _gather(array, lambda row: _from_array(row, size))
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 3 and array.shape[1:] == size:
        return _gather(array, lambda mask: [_from_mask(mask, size)])
    if array.ndim < 2:
        raise ValueError(
            f"region: an array must be a mask of shape {size}, a box of 4 numbers or a point of 2, "
            f"got shape {array.shape}"
        )
    return [_from_mask(array, size)]


def _from_mask(mask: Any, size: Size) -> Region:
    return _not_empty(Region.from_mask(mask, size))


def _from_dict(record: Mapping[str, Any], size: Size) -> Region:
    if "counts" in record:
        return _not_empty(Region.from_rle(record, size))
    segmentation = record.get("segmentation")
    if not _SAM_KEYS.isdisjoint(record) or isinstance(segmentation, np.ndarray):
        return _not_empty(Region.from_sam(record, size))
    if segmentation is not None or "bbox" in record:
        return _not_empty(Region.from_coco(record, size))
    raise ValueError(
        "region: a dict must have counts, segmentation or bbox, got the keys "
        f"{sorted(map(str, record))}; accepted: {ACCEPTED}"
    )


def _from_detections(detections: Any, size: Size) -> list[Region]:
    """Masks if there are any, else boxes; with class name, confidence and tracker id if there are.

    Boxes without masks come from a detector: continuous coordinates, read as exclusive ends.
    """
    masks = getattr(detections, "mask", None)
    values = detections.xyxy if masks is None else masks
    if len(values) == 0:
        raise ValueError(
            f"regions: expected at least one region, got an empty {type(detections).__name__}"
        )
    regions = _from_array(to_numpy("region", values), size)
    data = getattr(detections, "data", None)
    columns: dict[str, Any] = {
        "id": getattr(detections, "tracker_id", None),
        "label": data.get("class_name") if isinstance(data, Mapping) else None,
        "score": getattr(detections, "confidence", None),
    }
    known = {key: column for key, column in columns.items() if np.ndim(column) == 1}
    for key, column in known.items():
        if len(column) != len(regions):
            raise ValueError(f"region: {key} must have {len(regions)} values, got {len(column)}")
        regions = [
            replace(region, **{key: np.asarray(value).item()})
            for region, value in zip(regions, column, strict=True)
        ]
    return regions


def _gather(
    items: Sequence[Any] | NDArray[Any], convert: Callable[[Any], list[Region]]
) -> list[Region]:
    """Convert each item; errors of one of several say which."""
    regions: list[Region] = []
    for index, item in enumerate(items):
        try:
            regions += convert(item)
        except (FileNotFoundError, TypeError, ValueError) as error:
            if len(items) == 1:
                raise
            kinds = (FileNotFoundError, TypeError, ValueError)
            kind = next(kind for kind in kinds if isinstance(error, kind))
            raise kind(f"regions[{index}]: {error}") from None
    return regions


def _not_empty(region: Region) -> Region:
    if region.area == 0:
        raise EmptyRegionError("mask: is empty (no pixel is inside), expected at least one pixel")
    return region


def _is_coordinates(thing: Any) -> bool:
    """Tell a non-empty list or tuple of plain numbers."""
    return isinstance(thing, list | tuple) and len(thing) > 0 and all(map(is_number, thing))
