"""Which query is responsible for which target: for class and mask, and for the caption.

Symbols: Q queries without the class token, T targets, P points, h, w the size of predicted masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastregion.models.pix2cap.assignment import linear_sum_assignment
from fastregion.models.pix2cap.points import Draw, sample_points

__all__ = ["HungarianMatcher", "match_captions", "shrink_masks"]


@dataclass(frozen=True, kw_only=True)
class HungarianMatcher:
    """One query for each target, so that the sum of their costs is smallest.

    The cost of a pair is ``class_weight * (-probability of the class) + mask_weight * BCE +
    dice_weight * dice``, the masks compared in random points.

    Attributes:
        class_weight, mask_weight, dice_weight: of the costs.
        num_points: P.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    num_points: int = 12544

    @torch.no_grad()
    def __call__(
        self, class_logits: Tensor, mask_logits: Tensor, classes: Tensor, masks: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """Match one image.

        Args:
            class_logits: ``[Q, K + 1]``.
            mask_logits: ``[Q, h, w]``.
            classes: int64 ``[T]``.
            masks: float32 ``[T, H, W]``, 0 or 1, padded like the batch.
            draw: the source of points; asked once, also where there is no target.

        Returns:
            int64 ``[min(Q, T)]`` each, on the CPU: queries in ascending order, and their targets.
        """
        points = draw(1, self.num_points)
        if not len(classes):
            nothing = torch.empty(0, dtype=torch.long)
            return nothing, nothing
        # Mixed precision would round the sums over all points.
        with torch.autocast(mask_logits.device.type, enabled=False):
            probabilities = class_logits.float().softmax(-1)
            predicted = sample_points(mask_logits.float(), points)  # [Q, P]
            wanted = sample_points(masks, points)  # [T, P]
            # BCE of logit x and target t is softplus(x) - x t: one product for all pairs.
            bce = (F.softplus(predicted).sum(1)[:, None] - predicted @ wanted.T) / self.num_points
            inside = predicted.sigmoid()
            overlap = 2 * inside @ wanted.T
            dice = 1 - (overlap + 1) / (inside.sum(1)[:, None] + wanted.sum(1)[None] + 1)
            cost = (
                self.mask_weight * bce
                - self.class_weight * probabilities[:, classes]
                + self.dice_weight * dice
            )
        rows, columns = linear_sum_assignment(cost.cpu().numpy())
        return torch.from_numpy(rows), torch.from_numpy(columns)


def shrink_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Targets at the size of predicted masks: inside is where bilinear sampling finds any of them.

    Args:
        masks: float32 ``[T, H, W]``, 0 or 1, padded like the batch.
        size: (h, w).

    Returns:
        bool ``[T, h, w]``.
    """
    if not len(masks):
        return torch.zeros(0, *size, dtype=torch.bool, device=masks.device)
    return F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0] > 0


@torch.no_grad()
def match_captions(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """For each target the query whose mask overlaps it most; several may share one.

    An empty target has no overlap with anything: it is given the first query whose mask is empty
    too, as published, and else the first query.

    Args:
        mask_logits: ``[Q, h, w]``.
        masks: bool ``[T, h, w]``, what :func:`shrink_masks` returns.

    Returns:
        int64 ``[T]``.
    """
    if not len(masks):
        return torch.empty(0, dtype=torch.long, device=mask_logits.device)
    with torch.autocast(mask_logits.device.type, enabled=False):  # it would round the counts
        wanted, predicted = masks.flatten(1).float(), (mask_logits > 0).flatten(1).float()
        shared = wanted @ predicted.T  # [T, Q]
        union = wanted.sum(1)[:, None] + predicted.sum(1)[None] - shared
    return (shared / union).argmax(1)  # 0 / 0 is NaN, the first of which argmax takes
