"""How regions overlap: intersection, IoU and containment of every pair of two lists.

Computed on the packed bits, where the boxes of a pair meet. All regions must be bound to images of
one size.

Raises (all functions):
    TypeError: something that is not a :class:`~fastregion.regions.Region`.
    ValueError: regions that are unbound or of different sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastregion.regions._backend import backend, num_threads
from fastregion.regions.region import Region


def intersection(
    first: Sequence[Region], second: Sequence[Region] | None = None
) -> NDArray[np.int64]:
    """Count the pixels that each pair shares.

    Args:
        first: N regions.
        second: M regions; by default ``first`` again (then each pair is computed once).

    Returns:
        int64 ``[N, M]``.
    """
    return _shared_pixels("intersection", first, second)


def iou(
    first: Sequence[Region],
    second: Sequence[Region] | None = None,
    *,
    iscrowd: Sequence[bool] | None = None,
) -> NDArray[np.float64]:
    """Intersection over union of each pair, as pycocotools' ``iou``; 0 for two empty regions.

    Args:
        first: N regions (detections, where it matters).
        second: M regions (ground truth); by default ``first`` again.
        iscrowd: M flags; for a crowd region the union is replaced by the area of the first region,
            so that a detection inside a crowd scores 1.

    Returns:
        float64 ``[N, M]`` in [0, 1].
    """
    shared = _shared_pixels("iou", first, second)
    columns = first if second is None else second
    union = _areas(first)[:, None] + _areas(columns)[None, :] - shared
    if iscrowd is not None:
        crowd = np.asarray(iscrowd, bool)
        if crowd.shape != (len(columns),):
            raise ValueError(
                f"iou: iscrowd must have one flag per second region, shape ({len(columns)},), "
                f"got {crowd.shape}"
            )
        union = np.where(crowd[None, :], _areas(first)[:, None], union)
    return _ratio(shared, union)


def containment(
    first: Sequence[Region], second: Sequence[Region] | None = None
) -> NDArray[np.float64]:
    """Return which part of each first region lies inside each second one.

    Args:
        first: N regions.
        second: M regions; by default ``first`` again.

    Returns:
        float64 ``[N, M]``: shared pixels / area of the first region, in [0, 1]; 0 if it is empty.
    """
    shared = _shared_pixels("containment", first, second)
    return _ratio(shared, np.broadcast_to(_areas(first)[:, None], shared.shape))


def _shared_pixels(
    name: str, first: Sequence[Region], second: Sequence[Region] | None
) -> NDArray[np.int64]:
    columns = first if second is None else second
    _check(name, [*first, *columns])
    return backend().intersections(
        [region.pixels()[0] for region in first],
        _boxes(first),
        [region.pixels()[0] for region in columns],
        _boxes(columns),
        columns is first,
        num_threads(),
    )


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    result = np.zeros(part.shape)
    return np.divide(part, whole, out=result, where=part > 0)


def _areas(regions: Sequence[Region]) -> NDArray[np.int64]:
    return np.array([region.area for region in regions], np.int64)


def _boxes(regions: Sequence[Region]) -> NDArray[np.int64]:
    return np.array([region.box for region in regions], np.int64).reshape(-1, 4)


def _check(name: str, regions: Sequence[Region]) -> None:
    for region in regions:
        if not isinstance(region, Region):
            raise TypeError(
                f"{name}: must be given lists of Region, got {type(region).__name__}; "
                "as_regions makes them"
            )
        if region.size is None:
            raise ValueError(f"{name}: regions must be bound to an image, got {region!r}")
        if region.size != regions[0].size:
            raise ValueError(
                f"{name}: regions must have the same size, got {regions[0].size} and {region.size}"
            )
