"""From InternViT's tokens to the language model's, four to one (InternVL's ``mlp1``).

    u = [f[2i, 2j], f[2i, 2j+1], f[2i+1, 2j], f[2i+1, 2j+1]]            pixel shuffle, ratio 1/2
    z = W_2 GELU(W_1 LN(u) + b_1) + b_2

Version "v2" of the shuffle keeps rows and columns: tokens leave row by row. "v1" swaps them: the
token of cell (i, j) leaves in the place of cell (j, i).
"""

from __future__ import annotations

from torch import Tensor, nn

from fastregion.ops import Linear
from fastregion.vision.space_to_depth import space_to_depth

__all__ = ["PS_VERSIONS", "PixelShuffleProjector"]

PS_VERSIONS = ("v1", "v2")


class PixelShuffleProjector(nn.Sequential):
    """The projector; parameter names are those of the published checkpoints.

    Args:
        in_size: C, width of a vision token.
        out_size: width of the language model.
        grid_size: g, patches a side, a multiple of ``side``.
        side: patches a side of a new token, 1 / ``downsample_ratio``.
        version: ``"v1"`` or ``"v2"``.
    """

    def __init__(
        self, *, in_size: int, out_size: int, grid_size: int, side: int, version: str
    ) -> None:
        width = side**2 * in_size
        super().__init__(
            nn.LayerNorm(width), Linear(width, out_size), nn.GELU(), Linear(out_size, out_size)
        )
        self.grid_size, self.side, self.version = grid_size, side, version

    def forward(self, x: Tensor) -> Tensor:
        """Patch tokens ``[T, g * g, C]``, row-major, to ``[T, (g / side) ** 2, out_size]``."""
        z = self.shuffle(x)
        for layer in self:
            z = layer(z)
        return z

    def shuffle(self, x: Tensor) -> Tensor:
        """The pixel shuffle alone."""
        return space_to_depth(x, self.grid_size, side=self.side, column_major=self.version == "v1")
