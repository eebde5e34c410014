"""The order of channels and tokens, and the padding of odd grids, against loops."""

from __future__ import annotations

import pytest
import torch

from fastregion.vision.downsample_projector import DownsampleProjector


@pytest.mark.parametrize("grid", [1, 4, 5])
@torch.inference_mode()
def test_tokens_leave_column_by_column(grid: int) -> None:
    torch.manual_seed(0)
    projector = DownsampleProjector(in_size=6, out_size=10, grid_size=grid)
    half = (grid + 1) // 2
    assert projector.num_tokens == half**2
    x = torch.randn(2, grid * grid, 6)
    tokens = []
    for column in range(half):
        for row in range(half):
            parts = []
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                y, z = 2 * row + i, 2 * column + j
                inside = y < grid and z < grid
                parts.append(x[:, y * grid + z] if inside else torch.zeros(2, 6))
            tokens.append(torch.cat(parts, 1))
    u = torch.stack(tokens, 1)
    norm, first, gelu, second = projector.layers[1:]
    torch.testing.assert_close(projector(x), second(gelu(first(norm(u)))))
    assert torch.equal(projector.layers[0](x), u)
    assert gelu.approximate == "none"


def test_another_number_of_tokens() -> None:
    projector = DownsampleProjector(in_size=6, out_size=10, grid_size=3)
    with pytest.raises(ValueError, match=r"x: must be \[B, 9, D\], got shape \(1, 8, 6\)"):
        projector(torch.zeros(1, 8, 6))
