"""From a vision tower's tokens to the language model's, four to one (DAM's ``mlp_downsample``).

    u[c, r] = [x[2r, 2c], x[2r, 2c+1], x[2r+1, 2c], x[2r+1, 2c+1]]        channels one by one
    z = W_2 GELU(W_1 LN(u) + b_1) + b_2

An odd grid gets a row of zeros at the bottom and a column at the right, before the norm. Tokens
leave column by column: what is at column c and row r comes at place ``c * rows + r``. That looks
like a slip of the released code, and the released weights depend on it.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from fastregion.ops import Linear
from fastregion.vision.space_to_depth import space_to_depth

__all__ = ["DownsampleProjector"]


class SpaceToDepth(nn.Module):
    """2 x 2 tokens to one, four times as wide."""

    def __init__(self, grid_size: int) -> None:
        super().__init__()
        self.grid_size = grid_size

    def forward(self, x: Tensor) -> Tensor:
        """``[B, g * g, D]``, row-major, to ``[B, n * n, 4 D]``, column-major, ``n = ceil(g / 2)``.

        Raises:
            ValueError: another number of tokens.
        """
        return space_to_depth(x, self.grid_size, column_major=True)


class DownsampleProjector(nn.Module):
    """The projector; parameter names are those of the released checkpoints.

    Args:
        in_size: D, width of a vision token.
        out_size: width of the language model.
        grid_size: g, patches a side.
    """

    def __init__(self, *, in_size: int, out_size: int, grid_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            SpaceToDepth(grid_size),
            nn.LayerNorm(4 * in_size),
            Linear(4 * in_size, out_size),
            nn.GELU(),
            Linear(out_size, out_size),
        )

    @property
    def num_tokens(self) -> int:
        """Tokens of one picture."""
        return ((cast(SpaceToDepth, self.layers[0]).grid_size + 1) // 2) ** 2

    def forward(self, x: Tensor) -> Tensor:
        """``[B, g * g, D]`` to ``[B, num_tokens, out_size]``."""
        z: Tensor = self.layers(x)
        return z
