"""Masks looked at in points: PointRend's sampling, which Pix2Cap's matching and mask losses use.

Points are (x, y) in [0, 1] of the padded input; a map is read between its pixels, bilinearly, and
is zero beyond its border.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Draw", "sample_points", "uncertain_points", "uniform_points"]

# (number of sets, points in each) -> uniform [sets, points, 2] in [0, 1).
Draw = Callable[[int, int], Tensor]


def uniform_points(device: torch.device, generator: torch.Generator | None = None) -> Draw:
    """A source of random points on a device."""

    def draw(num_sets: int, num_points: int) -> Tensor:
        return torch.rand(num_sets, num_points, 2, device=device, generator=generator)

    return draw


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps at points.

    Args:
        maps: floating-point ``[N, H, W]``.
        points: ``[N, P, 2]``, or ``[1, P, 2]`` for all maps alike.

    Returns:
        ``[N, P]``.
    """
    grid = 2 * points[:, :, None] - 1  # [N, P, 1, 2]
    if len(points) == 1:  # all maps are channels of one picture
        return F.grid_sample(maps[None], grid, align_corners=False)[0, :, :, 0]
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(
    logits: Tensor, num_points: int, oversample: float, importance: float, draw: Draw
) -> Tensor:
    """Points of which most are where a mask is least sure, the others anywhere.

    Args:
        logits: ``[N, h, w]``, at least one.
        num_points: P.
        oversample: how many times P points are drawn to choose from.
        importance: share of the P points that are chosen.
        draw: the source of points.

    Returns:
        ``[N, P, 2]``.
    """
    pool = draw(len(logits), int(num_points * oversample))
    num_chosen = int(importance * num_points)
    chosen = (-sample_points(logits, pool).abs()).topk(num_chosen, dim=1).indices
    points = pool.gather(1, chosen[:, :, None].expand(-1, -1, 2))
    return torch.cat((points, draw(len(logits), num_points - num_chosen)), dim=1)
