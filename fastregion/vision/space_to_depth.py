"""Neighbouring tokens of a grid joined to one wider token."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["space_to_depth"]


def space_to_depth(
    x: Tensor, grid_size: int, *, side: int = 2, column_major: bool = False
) -> Tensor:
    """``side`` x ``side`` tokens to one, ``side ** 2`` times as wide.

    The channels of a new token are those of its old ones, row by row. A grid that is no multiple of
    ``side`` gets rows of zeros at the bottom and columns at the right.

    Args:
        x: ``[B, g * g, D]``, row-major.
        grid_size: g, tokens a side.
        side: old tokens a side of a new one.
        column_major: the new tokens leave column by column instead of row by row.

    Returns:
        ``[B, n * n, side ** 2 * D]`` with ``n = ceil(g / side)``.

    Raises:
        ValueError: another number of tokens.
    """
    if x.dim() != 3 or x.shape[1] != grid_size**2:
        raise ValueError(f"x: must be [B, {grid_size**2}, D], got shape {tuple(x.shape)}")
    more = -grid_size % side
    count = (grid_size + more) // side
    grid = F.pad(x.reshape(len(x), grid_size, grid_size, -1), (0, 0, 0, more, 0, more))
    cells = grid.view(len(x), count, side, count, side, -1)  # B, r, i, c, j, D
    order = (0, 3, 1, 2, 4, 5) if column_major else (0, 1, 3, 2, 4, 5)
    return cells.permute(order).reshape(len(x), count * count, -1)
