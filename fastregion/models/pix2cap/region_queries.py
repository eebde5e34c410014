"""Which query stands for a region that somebody has given."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fastregion.models.pix2cap.output import STRIDE

__all__ = ["matching_queries", "region_shares"]


def matching_queries(shares: Tensor, mask_logits: Tensor) -> Tensor:
    """For each region the query whose mask is most like it, int64 ``[N]``.

    That is the one with the largest intersection over union. A region that no mask touches gets the
    query whose mask is likeliest there.

    Args:
        shares: ``[N, h, w]``, the share of each place that is inside of a region; not all 0.
        mask_logits: ``[Q, h, w]``.
    """
    inside, logits = shares.flatten(1).float(), mask_logits.flatten(1).float()
    masks = (logits > 0).float()
    both = inside @ masks.t()
    either = inside.sum(1)[:, None] + masks.sum(1) - both
    best, queries = (both / either).max(1)
    return torch.where(best > 0, queries, (inside @ logits.sigmoid().t()).argmax(1))


def region_shares(
    mask: NDArray[np.bool_],
    input_size: tuple[int, int],
    size: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """The share of each place of a mask map that is inside of a region.

    Args:
        mask: bool ``[H, W]``, of the picture.
        input_size: height and width of the picture in the network, without padding.
        size: h and w of the map, at stride 4.
        device: of the result.

    Returns:
        float32 ``[h, w]``, not all 0 where the mask is not empty.
    """
    inside = torch.from_numpy(mask).to(device, torch.float32)[None, None]
    resized = F.interpolate(inside, input_size, mode="area")
    height, width = (STRIDE * side for side in size)
    padded = F.pad(resized, (0, width - input_size[1], 0, height - input_size[0]))
    return F.avg_pool2d(padded, STRIDE)[0, 0]
