"""GAR's masks, cut as its pictures are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastregion.models.gar.processing import choose_grid, cut_masks

SIZE = 448


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (720, 1280), (1080, 1920)], ids=str)
def test_masks_are_cut_as_torch_resizes(size: tuple[int, int]) -> None:
    """To the pixel: in exact arithmetic some rows and columns of these sizes are others."""
    masks = np.random.default_rng(0).random((2, *size)) > 0.5
    columns, rows = choose_grid(size[1], size[0], SIZE, 16)

    def resized(height: int, width: int) -> Tensor:
        picture = torch.from_numpy(masks)[:, None].float()
        return F.interpolate(picture, (height * SIZE, width * SIZE), mode="nearest")[:, 0]

    canvas = resized(rows, columns).view(2, rows, SIZE, columns, SIZE).transpose(2, 3)
    expected = torch.cat((resized(1, 1)[:, None], canvas.reshape(2, -1, SIZE, SIZE)), dim=1)
    found = cut_masks(masks, SIZE, (columns, rows)).unpack()
    assert torch.equal(found, expected > 0)
