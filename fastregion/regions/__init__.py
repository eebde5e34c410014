"""Regions of an image: masks, boxes, points and polygons, and how they overlap.

:class:`Region` is the currency of the package: the pixels meant, packed one bit each and bound to
the size of an image. :func:`as_regions` makes regions of whatever a user holds, and is the one
place where that is decided. The ``rle_...`` functions read and write COCO run-length encoding
exactly as pycocotools does; :func:`intersection`, :func:`iou` and :func:`containment` compare every
pair of two lists; ``xyxy_from_...`` and ``..._from_xyxy`` convert boxes between the conventions of
:mod:`fastregion.regions.boxes`.

Everywhere: sizes are (height, width) in pixels; boxes are (x0, y0, x1, y1) with exclusive ends;
points are (x, y); the centre of the first pixel is (0.5, 0.5).

Example:
    >>> import numpy as np
    >>> from fastregion.regions import as_regions, iou
    >>> mask = np.zeros((480, 640), bool)
    >>> mask[60:300, 40:220] = True
    >>> a, b = as_regions([mask, (40, 60, 220, 180)], size=(480, 640))
    >>> a.box, a.area, a.centroid
    ((40, 60, 220, 300), 43200, (130.0, 180.0))
    >>> iou([a], [b])
    array([[0.5]])
"""

from fastregion.regions.boxes import (
    pycocotools_from_xyxy,
    sam_from_xyxy,
    supervision_from_xyxy,
    xyxy_from_pycocotools,
    xyxy_from_sam,
    xyxy_from_supervision,
)
from fastregion.regions.coercion import as_region, as_regions
from fastregion.regions.pairwise import containment, intersection, iou
from fastregion.regions.region import Region
from fastregion.regions.rle import (
    CompressedRle,
    UncompressedRle,
    rle_area,
    rle_compress,
    rle_decode,
    rle_encode,
    rle_to_bbox,
    rle_uncompress,
)
from fastregion.regions.tensors import mask_tensor

__all__ = [
    "CompressedRle",
    "Region",
    "UncompressedRle",
    "as_region",
    "as_regions",
    "containment",
    "intersection",
    "iou",
    "mask_tensor",
    "pycocotools_from_xyxy",
    "rle_area",
    "rle_compress",
    "rle_decode",
    "rle_encode",
    "rle_to_bbox",
    "rle_uncompress",
    "sam_from_xyxy",
    "supervision_from_xyxy",
    "xyxy_from_pycocotools",
    "xyxy_from_sam",
    "xyxy_from_supervision",
]
