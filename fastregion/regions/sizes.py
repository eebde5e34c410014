"""Image sizes: (height, width) in pixels, checked in one place."""

from __future__ import annotations

import operator
from typing import Any

Size = tuple[int, int]

MAX_PIXELS = 2**30
"""Largest mask that is decoded or allocated: 128 MiB of bits, an image of 32768 x 32768."""


def check_size(name: str, size: Any) -> Size:
    """Return ``size`` as (height, width).

    Raises:
        TypeError: not two integers.
        ValueError: not positive, or more than :data:`MAX_PIXELS` pixels.
    """
    try:
        height, width = size
        height, width = operator.index(height), operator.index(width)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: must be two integers (height, width), got {size!r}") from None
    if height < 1 or width < 1:
        raise ValueError(f"{name}: must be positive (height, width), got ({height}, {width})")
    if height * width > MAX_PIXELS:
        raise ValueError(f"{name}: must have at most {MAX_PIXELS} pixels, got ({height}, {width})")
    return height, width
