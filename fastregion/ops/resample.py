"""Tables of one axis of a resize: which source pixels a result pixel reads, with which weights.

The published preprocessings differ in their rules, so the rules live here, once, and the kernels
follow tables. A table depends on two sizes only; it is made once and kept.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

NEAREST_RULES = ("floor", "centre")

# Weights of Pillow's 8-bit resize are integers with this many bits behind the point.
PRECISION_BITS = 22


@lru_cache(maxsize=256)
def nearest_table(source: int, size: int, rule: str, device: torch.device) -> Tensor:
    """Source index of each of ``size`` result pixels, ``[size]`` int64.

    ``floor``: ``floor(i * source / size)``, torch's and OpenCV's. ``centre``: Pillow's, the pixel
    under the centre of the result pixel, with the steps added up in float64 as Pillow does.
    """
    if rule == "floor":
        index = np.arange(size) * source // size
    else:
        steps = np.full(size, source / size)
        steps[0] *= 0.5
        index = np.add.accumulate(steps).astype(np.int64)
    return torch.from_numpy(index).to(device)


def _bicubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5, in the order of operations of Pillow."""
    a, x = -0.5, np.abs(distance)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


@lru_cache(maxsize=256)
def bicubic_table(
    source: int, size: int, fixed_point: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pillow's bicubic with antialiasing along one axis.

    Returns:
        ``[size, 2]`` int32, first source pixel and number of them; ``[size, taps]`` weights, int32
        with ``PRECISION_BITS`` bits behind the point or float64; those past the number are 0, and
        taps is a multiple of 8.
    """
    scale = source / size
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    centre = (np.arange(size) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), source) - first
    tap = np.arange(-(-count.max() // 8) * 8)  # whole vectors for the kernels
    place = (tap + first[:, None]) - centre[:, None] + 0.5
    weights = np.where(tap < count[:, None], _bicubic(place * (1.0 / stretch)), 0.0)
    total = np.add.accumulate(weights, axis=1)[:, -1:]  # added one by one, as Pillow does
    weights = np.divide(weights, total, out=weights, where=total != 0)
    if fixed_point:
        scaled = weights * (1 << PRECISION_BITS)
        weights = np.where(scaled < 0, scaled - 0.5, scaled + 0.5).astype(np.int32)
    window = np.stack((first, count), axis=1).astype(np.int32)
    return torch.from_numpy(window).to(device), torch.from_numpy(weights).to(device)
