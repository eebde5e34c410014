"""Sine embedding of the places of a map, shared by both decoders of Pix2Cap."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sine_positions"]

_TEMPERATURE = 10000.0
_EPSILON = 1e-6


def sine_positions(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Embedding of every place.

    With ``p = 2 pi i / (last + 1e-6)`` for rows, then for columns, i counted from 1, channel c of
    the first half of the channels is ``sin(p / T^(2 floor(c / 2) / (C / 2)))`` where c is even and
    the cosine of it where c is odd; the second half is the same of the columns.

    Args:
        height: rows of the map.
        width: columns of the map.
        channels: C, a multiple of 4.
        like: of whose dtype and device the result is.

    Returns:
        ``[height * width, C]``, row by row.
    """
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=like.device)
    frequency = _TEMPERATURE ** (2 * (index // 2) / half)

    def axis(length: int) -> Tensor:
        place = torch.arange(1, length + 1, dtype=torch.float32, device=like.device)
        angle = (place / (length + _EPSILON) * (2 * math.pi))[:, None] / frequency
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    rows = axis(height)[:, None].expand(height, width, half)
    columns = axis(width)[None].expand(height, width, half)
    return torch.cat((rows, columns), dim=2).flatten(0, 1).to(like.dtype)
