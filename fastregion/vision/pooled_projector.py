"""From a vision tower's tokens to the language model's, a quarter as many (Perception-LM).

z = W_2 GELU(W_1 x + b_1) + b_2          on every patch token, then the mean of each 2 x 2
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.ops import Linear

__all__ = ["PooledProjector"]


class PooledProjector(nn.Module):
    """Two linear layers, then mean pooling over the grid; parameter names are Perception-LM's.

    Args:
        in_size: width of a vision token.
        out_size: width of the language model.
        grid: rows and columns of patches, multiples of ``pooling``.
        pooling: patches a side that make one token.
    """

    def __init__(self, in_size: int, out_size: int, grid: tuple[int, int], pooling: int) -> None:
        super().__init__()
        if any(cells % pooling for cells in grid):
            raise ValueError(f"grid must be multiples of pooling {pooling}, got {grid}")
        self.grid, self.pooling = grid, pooling
        self.linear_1 = Linear(in_size, out_size)
        self.linear_2 = Linear(out_size, out_size)

    @property
    def out_grid(self) -> tuple[int, int]:
        """Rows and columns of the pooled tokens."""
        return self.grid[0] // self.pooling, self.grid[1] // self.pooling

    def forward(self, x: Tensor) -> Tensor:
        """Patch tokens ``[T, rows * columns, in_size]`` to ``[T, n, out_size]``, row-major."""
        return self.pool(self.project(x))

    def project(self, x: Tensor) -> Tensor:
        """The linear layers alone."""
        y: Tensor = self.linear_2(F.gelu(self.linear_1(x)))
        return y

    def pool(self, x: Tensor) -> Tensor:
        """The pooling alone, ``[T, rows * columns, D]`` to ``[T, n, D]``."""
        rows, columns = self.out_grid
        cells = x.view(len(x), rows, self.pooling, columns, self.pooling, -1)
        return cells.mean((2, 4)).flatten(1, 2)
