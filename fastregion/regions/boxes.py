"""Box conventions, and converters between them named after who uses them.

A box of this package is ``xyxy``: (x0, y0, x1, y1) in pixels with exclusive ends, so that the width
is ``x1 - x0`` and the whole image is (0, 0, width, height).

============  ==================  ===================================================
convention    numbers             a single pixel at column 3, row 5
============  ==================  ===================================================
fastregion    x0, y0, x1, y1      3, 5, 4, 6   (ends exclusive)
pycocotools   x, y, width, height 3, 5, 1, 1   (also COCO files and DAM)
sam           x, y, width, height 3, 5, 0, 0   (width = last column - first column)
supervision   x0, y0, x1, y1      3, 5, 3, 5   (ends inclusive)
============  ==================  ===================================================

All converters take and return arrays ``[..., 4]``; unsigned numbers become int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def xyxy_from_pycocotools(boxes: ArrayLike) -> NDArray[Any]:
    """Convert (x, y, width, height) with exclusive ends, as in COCO files and DAM."""
    x, y, width, height = _columns("xyxy_from_pycocotools", boxes)
    return np.stack((x, y, x + width, y + height), axis=-1)


def pycocotools_from_xyxy(boxes: ArrayLike) -> NDArray[Any]:
    """Convert to (x, y, width, height) with exclusive ends, as in COCO files and DAM."""
    x0, y0, x1, y1 = _columns("pycocotools_from_xyxy", boxes)
    return np.stack((x0, y0, x1 - x0, y1 - y0), axis=-1)


def xyxy_from_sam(boxes: ArrayLike) -> NDArray[Any]:
    """Convert the ``bbox`` of SAM's mask generator: (x, y, width, height) with inclusive ends."""
    x, y, width, height = _columns("xyxy_from_sam", boxes)
    return np.stack((x, y, x + width + 1, y + height + 1), axis=-1)


def sam_from_xyxy(boxes: ArrayLike) -> NDArray[Any]:
    """Convert to the ``bbox`` of SAM's mask generator, whose ends are inclusive."""
    x0, y0, x1, y1 = _columns("sam_from_xyxy", boxes)
    return np.stack((x0, y0, x1 - x0 - 1, y1 - y0 - 1), axis=-1)


def xyxy_from_supervision(boxes: ArrayLike) -> NDArray[Any]:
    """Convert (x0, y0, x1, y1) with inclusive ends, as supervision takes them from masks."""
    x0, y0, x1, y1 = _columns("xyxy_from_supervision", boxes)
    return np.stack((x0, y0, x1 + 1, y1 + 1), axis=-1)


def supervision_from_xyxy(boxes: ArrayLike) -> NDArray[Any]:
    """Convert to (x0, y0, x1, y1) with inclusive ends, as supervision takes them from masks."""
    x0, y0, x1, y1 = _columns("supervision_from_xyxy", boxes)
    return np.stack((x0, y0, x1 - 1, y1 - 1), axis=-1)


def _columns(name: str, boxes: ArrayLike) -> NDArray[Any]:
    array = np.asarray(boxes)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: boxes must be numbers, got dtype {array.dtype}")
    if array.ndim == 0 or array.shape[-1] != 4:
        raise ValueError(f"{name}: boxes must be [..., 4], got shape {array.shape}")
    if array.dtype.kind == "u":  # differences of unsigned numbers would wrap around
        array = array.astype(np.int64)
    return np.moveaxis(array, -1, 0)
