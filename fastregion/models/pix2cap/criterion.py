"""Pix2Cap's losses: class, mask and caption, on the predictions of every decoder layer.

Symbols: B images, Q queries (the last one is the class token, which has no loss), K classes, T
targets of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.models.pix2cap.matching import HungarianMatcher, match_captions, shrink_masks
from fastregion.models.pix2cap.output import STRIDE, Pix2CapOutput
from fastregion.models.pix2cap.points import Draw, sample_points, uncertain_points
from fastregion.models.pix2cap.targets import Targets

__all__ = ["CaptionHead", "Pix2CapCriterion", "caption_loss"]

# Teacher forcing: (features of T objects [T, 2, D], T captions) -> logits [N, V] of the N tokens
# that are predicted, in the order of the captions, and these tokens [N].
CaptionHead = Callable[[Tensor, Sequence[str]], tuple[Tensor, Tensor]]


def caption_loss(logits: Tensor, tokens: Tensor, smoothing: float = 0.1) -> Tensor:
    """Kullback-Leibler divergence from smoothed targets, mean over tokens.

    The target gives ``1 - smoothing`` to the token and shares the rest among the V - 1 others: the
    cross entropy with label smoothing, less the target's own entropy.

    Args:
        logits: ``[N, V]``.
        tokens: int64 ``[N]``; 0 is padding and left out.
        smoothing: in (0, 1).
    """
    kept = tokens != 0
    if not kept.any():
        return logits.sum() * 0.0
    log_p, tokens = logits[kept].float().log_softmax(-1), tokens[kept]
    other = smoothing / (logits.shape[1] - 1)
    entropy = -(1 - smoothing) * math.log(1 - smoothing) - smoothing * math.log(other)
    of_token = log_p.gather(1, tokens[:, None])[:, 0]
    cross_entropy = -(1 - smoothing - other) * of_token - other * log_p.sum(1)
    return (cross_entropy - entropy).mean()


class Pix2CapCriterion(nn.Module):
    """The training loss, with deep supervision.

    The entries are called as in the published logs: ``loss_mask_ce_0`` (class), ``loss_mask_bce_0``
    and ``loss_mask_dice_0``, ``loss_densecaption_0`` of the last layer, ``_1`` of the one before,
    and so on to the prediction from the learned queries.
    """

    empty_weight: Tensor  # [K + 1]; the name is the checkpoint's

    def __init__(
        self,
        *,
        num_classes: int = 133,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        caption_weight: float = 0.1,
        no_object_weight: float = 0.1,
        num_caption_layers: int = 9,
        num_points: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
    ) -> None:
        """Prepare the losses; the defaults are those of the published command.

        Args:
            num_classes: K, "no object" not counted.
            class_weight: of the class loss and of its cost in the matching.
            mask_weight: of the mask's cross entropy, likewise.
            dice_weight: of the mask's dice loss, likewise.
            caption_weight: of the caption loss.
            no_object_weight: of "no object" among the classes.
            num_caption_layers: how many of the last predictions have a caption loss.
            num_points: points in which a mask is compared.
            oversample: how many times as many are drawn to find the uncertain ones.
            importance: share of uncertain points.
        """
        super().__init__()
        self.weights = {
            "mask_ce": class_weight,
            "mask_bce": mask_weight,
            "mask_dice": dice_weight,
            "densecaption": caption_weight,
        }
        self.num_caption_layers = num_caption_layers
        self.num_points = num_points
        self.oversample = oversample
        self.importance = importance
        self.matcher = HungarianMatcher(
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            num_points=num_points,
        )
        weight = torch.ones(num_classes + 1)
        weight[-1] = no_object_weight
        self.register_buffer("empty_weight", weight)

    def forward(
        self,
        output: Pix2CapOutput,
        targets: Sequence[Targets],
        caption_head: CaptionHead,
        draw: Draw,
    ) -> dict[str, Tensor]:
        """Weighted losses by name; the loss of a step is their sum.

        Args:
            output: of the last layer, with those of the earlier ones.
            targets: of the B images; an image may have none.
            caption_head: the model's caption head under teacher forcing.
            draw: the source of points (:func:`points.uniform_points`).

        Raises:
            ValueError: another number of targets than images, or masks larger than the input.
        """
        if len(targets) != len(output.class_logits):
            raise ValueError(
                f"targets: expected one for each of {len(output.class_logits)} images, "
                f"got {len(targets)}"
            )
        height, width = output.mask_logits.shape[2:]
        padded_size = height * STRIDE, width * STRIDE
        padded = [image.padded_masks(padded_size).float() for image in targets]
        small = [shrink_masks(masks, (height, width)) for masks in padded]
        count = _mean_over_processes(sum(map(len, padded)), output.mask_logits.device)
        losses: dict[str, Tensor] = {}
        for index, layer in enumerate((output, *reversed(output.auxiliary))):
            found = self._mask_losses(layer, targets, padded, count, draw)
            if index < self.num_caption_layers:
                found["densecaption"] = self._caption_loss(layer, targets, small, caption_head)
            for name, loss in found.items():
                losses[f"loss_{name}_{index}"] = self.weights[name] * loss
        return losses

    def _mask_losses(
        self,
        layer: Pix2CapOutput,
        targets: Sequence[Targets],
        masks: Sequence[Tensor],
        count: float,
        draw: Draw,
    ) -> dict[str, Tensor]:
        """Class and mask losses of one layer, by the Hungarian matching."""
        class_logits, mask_logits = layer.class_logits[:, :-1], layer.mask_logits[:, :-1]
        matches = [
            self.matcher(class_logits[b], mask_logits[b], image.classes, masks[b], draw)
            for b, image in enumerate(targets)
        ]
        wanted_class = torch.full(
            class_logits.shape[:2], len(self.empty_weight) - 1, device=class_logits.device
        )
        for b, (queries, found) in enumerate(matches):
            wanted_class[b, queries] = targets[b].classes[found]
        class_loss = F.cross_entropy(
            class_logits.transpose(1, 2).float(), wanted_class, self.empty_weight.float()
        )
        predicted = torch.cat([mask_logits[b, q] for b, (q, _) in enumerate(matches)]).float()
        wanted = torch.cat([masks[b][t] for b, (_, t) in enumerate(matches)])
        if not len(predicted):
            nothing = mask_logits.sum() * 0.0
            return {"mask_ce": class_loss, "mask_bce": nothing, "mask_dice": nothing}
        points = uncertain_points(
            predicted.detach(), self.num_points, self.oversample, self.importance, draw
        )
        with torch.no_grad():
            truth = sample_points(wanted, points)  # [T, P]
        logits = sample_points(predicted, points)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
        inside = logits.sigmoid()
        overlap = 2 * (inside * truth).sum(1)
        dice = 1 - (overlap + 1) / (inside.sum(1) + truth.sum(1) + 1)
        return {
            "mask_ce": class_loss,
            "mask_bce": bce.sum() / count,
            "mask_dice": dice.sum() / count,
        }

    def _caption_loss(
        self,
        layer: Pix2CapOutput,
        targets: Sequence[Targets],
        masks: Sequence[Tensor],
        caption_head: CaptionHead,
    ) -> Tensor:
        """Caption loss of one layer, each caption told by the query that overlaps it most."""
        captions = [caption for image in targets for caption in image.captions]
        if not captions:
            return layer.object_features.sum() * 0.0
        features = torch.cat(
            [
                layer.object_features[b, match_captions(layer.mask_logits[b, :-1], masks[b])]
                for b in range(len(targets))
            ]
        )
        return caption_loss(*caption_head(features, captions))


def _mean_over_processes(count: int, device: torch.device) -> float:
    """Targets a process has, at least 1: what mask losses are divided by."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return float(max(count, 1))
    total = torch.tensor(float(count), device=device)
    torch.distributed.all_reduce(total)
    return max(float(total) / torch.distributed.get_world_size(), 1.0)
