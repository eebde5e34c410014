"""Regions of an image that nobody has pointed at: areas of like colour, without knowing objects.

Felzenszwalb and Huttenlocher's graph-based segmentation, by scikit-image (an optional dependency),
of which the areas most alike are joined.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastregion.regions.region import Region

__all__ = ["propose_regions", "proposer_name"]

_LONGEST_SIDE = 320  # pixels in which areas are found
_SCALE, _SMOOTHING, _MIN_SHARE = 60.0, 0.6, 0.001  # of the first areas, the last in images
_ALIKE = 2e-3  # what joining two areas may cost though there are few


def proposer_name() -> str:
    """What :func:`propose_regions` uses, with its version.

    Raises:
        ImportError: scikit-image is not installed; the message says how to install it.
    """
    try:
        import skimage  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "proposing regions needs scikit-image, which is not installed; "
            'install it with: pip install "fastregion[segment]"'
        ) from error
    return f"areas of like colour (felzenszwalb, scikit-image {version('scikit-image')})"


def propose_regions(image: NDArray[np.uint8], max_regions: int = 16) -> list[Region]:
    """Split an image into areas of like colour, the largest first.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        max_regions: at most so many; likes are joined until there are no more.

    Returns:
        Regions that do not overlap and cover the image.

    Raises:
        ImportError: scikit-image is not installed; the message says how to install it.
        TypeError, ValueError: another dtype or shape, or ``max_regions`` below 1.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"image: dtype must be uint8, got {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: expected shape [H, W, 3], got {image.shape}")
    if isinstance(max_regions, bool) or not isinstance(max_regions, int) or max_regions < 1:
        raise ValueError(f"max_regions: must be an integer of at least 1, got {max_regions!r}")
    proposer_name()  # says what is missing
    from skimage.color import rgb2lab
    from skimage.segmentation import felzenszwalb

    height, width = image.shape[:2]
    shrink = min(1.0, _LONGEST_SIDE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    lab = rgb2lab(np.asarray(small)) / 100  # so that distances are as eyes see them
    labels = felzenszwalb(
        lab,
        scale=_SCALE,
        sigma=_SMOOTHING,
        min_size=max(1, round(_MIN_SHARE * size[0] * size[1])),
        channel_axis=-1,
    )
    labels = _join_alike(labels, lab, max_regions)
    rows = np.arange(height) * labels.shape[0] // height
    columns = np.arange(width) * labels.shape[1] // width
    full = labels[np.ix_(rows, columns)] + 1
    return sorted(Region.from_label_map(full), key=lambda region: -region.area)


def _join_alike(
    labels: NDArray[np.int64], colors: NDArray[np.float64], max_regions: int
) -> NDArray[np.int64]:
    """Join neighbours, the most alike first, and among them the smallest.

    Joining areas of n and m pixels, as shares of the image, costs the squared difference of their
    mean colours times the square root of ``n m / (n + m)``. Ward's criterion, which has no root,
    would rather split a large shaded area than keep a small thing.

    Args:
        labels: ``[H, W]`` from 0, each of them somewhere.
        colors: ``[H, W, 3]``.
        max_regions: how many labels may remain.
    """
    count = int(labels.max()) + 1
    areas = np.bincount(labels.ravel(), minlength=count) / labels.size
    sums = np.stack(
        [
            np.bincount(labels.ravel(), channel.ravel(), count)
            for channel in np.moveaxis(colors, -1, 0)
        ],
        axis=1,
    )
    means = sums / (areas * labels.size)[:, None]
    sides = [(labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])]
    pairs = np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in sides])
    now = np.arange(count)  # what a label has become
    while True:
        pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
        if not len(pairs):
            break
        one, other = pairs.T
        weight = areas[one] * areas[other] / (areas[one] + areas[other])
        costs = np.sqrt(weight) * ((means[one] - means[other]) ** 2).sum(1)
        best = int(costs.argmin())
        if costs[best] > _ALIKE and len(np.unique(now)) <= max_regions:
            break
        kept, gone = pairs[best]
        total = areas[kept] + areas[gone]
        means[kept] = (areas[kept] * means[kept] + areas[gone] * means[gone]) / total
        areas[kept] = total
        now[now == gone] = kept
        pairs[pairs == gone] = kept
    return now[labels]
