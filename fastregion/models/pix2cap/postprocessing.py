"""From Pix2Cap's predictions for one image to segments, instances or a semantic map.

Symbols: Q queries, of which the last is the class token; K classes; H, W the picture's size.
The class token belongs to no object and has no caption. It takes part in the semantic map and in
the instances as published, but not in the panoptic merge: there the published code ends with an
error whenever it is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastregion.models.categories import Category
from fastregion.models.segment import Segment
from fastregion.regions import Region

__all__ = [
    "Instances",
    "KeptQueries",
    "MergedSegment",
    "instances",
    "keep_queries",
    "merge_segments",
    "resize_masks",
    "segments",
    "semantic_map",
]


def resize_masks(
    mask_logits: Tensor,
    padded_size: tuple[int, int],
    input_size: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Mask logits at the size of the picture.

    Enlarged to the padded input, cut to the input, resized to the picture; each step bicubic with
    antialiasing, as the model was evaluated.

    Args:
        mask_logits: ``[N, h, w]``, any of the predicted masks.
        padded_size: (height, width) of the batch.
        input_size: (height, width) of this image in it.
        size: (H, W) of the picture.

    Returns:
        float32 ``[N, H, W]``.
    """
    padded = _resized(mask_logits.float(), padded_size)
    height, width = input_size
    return _resized(padded[:, :height, :width], size)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if not len(maps):
        return maps.new_empty((0, *size))
    return F.interpolate(
        maps[None], size, mode="bicubic", align_corners=False, antialias=True
    ).squeeze(0)


@dataclass(frozen=True, eq=False)
class KeptQueries:
    """Queries that the model is sure of, in their order.

    Attributes:
        queries: int64 ``[N]``, their indices, below Q - 1.
        classes: int64 ``[N]``, below K.
        scores: float32 ``[N]``, softmax probabilities.
    """

    queries: Tensor
    classes: Tensor
    scores: Tensor


def keep_queries(class_logits: Tensor, threshold: float = 0.8) -> KeptQueries:
    """The queries whose likeliest class is an object with a probability above ``threshold``.

    Args:
        class_logits: ``[Q, K + 1]``; the last class is "no object", the last query the class token,
            which is never kept.
        threshold: in [0, 1].
    """
    scores, classes = class_logits[:-1].float().softmax(-1).max(-1)
    kept = (classes != class_logits.shape[1] - 1) & (scores > threshold)
    (queries,) = kept.nonzero(as_tuple=True)
    return KeptQueries(queries, classes[queries], scores[queries])


@dataclass(frozen=True)
class MergedSegment:
    """A segment of the panoptic map.

    Attributes:
        id: in the map, from 1.
        query: whose caption it has: of stuff in several parts, the first one's.
        class_index: below K.
        score: probability of the class.
    """

    id: int
    query: int
    class_index: int
    score: float


def merge_segments(
    kept: KeptQueries,
    mask_logits: Iterable[Tensor],
    size: tuple[int, int],
    things: Collection[int],
    overlap_threshold: float = 0.8,
) -> tuple[Tensor, list[MergedSegment]]:
    """The panoptic map: each pixel belongs to the kept query with the largest score x probability.

    A query that loses more than ``1 - overlap_threshold`` of its own pixels to others becomes no
    segment, and what it had won stays void. All parts of one kind of stuff are one segment.

    Args:
        kept: N queries.
        mask_logits: of these, N times ``[H, W]``; looked at one after the other, as N maps of a
            photo's size in float32 take gigabytes.
        size: (H, W).
        things: classes of which each query is a segment of its own.
        overlap_threshold: in [0, 1].

    Returns:
        int32 ``[H, W]``, 0 for void; and the segments by id.
    """
    count, device = len(kept.queries), kept.scores.device
    panoptic = torch.zeros(size, dtype=torch.int32, device=device)
    merged: list[MergedSegment] = []
    if count == 0:
        return panoptic, merged
    own = torch.empty((count, *size), dtype=torch.bool, device=device)
    best = torch.full(size, -1.0, device=device)
    owner = torch.zeros(size, dtype=torch.long, device=device)
    for row, logits in enumerate(mask_logits):
        probabilities = logits.float().sigmoid()  # [H, W]
        torch.ge(probabilities, 0.5, out=own[row])
        weighted = kept.scores[row] * probabilities
        owner.masked_fill_(weighted > best, row)  # the first of equals
        best = torch.maximum(best, weighted)
    owned_areas = owner.flatten().bincount(minlength=count).tolist()
    own_areas = own.flatten(1).sum(1).tolist()
    classes, queries = kept.classes.tolist(), kept.queries.tolist()
    stuff: dict[int, int] = {}
    for row, (class_index, score) in enumerate(zip(classes, kept.scores.tolist(), strict=True)):
        final = (owner == row) & own[row]
        if not (owned_areas[row] and own_areas[row] and final.any()):
            continue
        if owned_areas[row] / own_areas[row] < overlap_threshold:
            continue
        if class_index in stuff:
            panoptic[final] = stuff[class_index]
            continue
        number = len(merged) + 1
        panoptic[final] = number
        merged.append(MergedSegment(number, queries[row], class_index, score))
        if class_index not in things:
            stuff[class_index] = number
    return panoptic, merged


def segments(
    panoptic: Tensor,
    merged: Sequence[MergedSegment],
    categories: Sequence[Category],
    captions: Mapping[int, str],
) -> list[Segment]:
    """The segments of a panoptic map.

    Args:
        panoptic: int32 ``[H, W]``.
        merged: what :func:`merge_segments` returned with it.
        categories: of the K classes.
        captions: by query.
    """
    ids = panoptic.cpu().numpy()
    return [
        Segment.of(
            Region.from_mask(ids == segment.id),
            id=segment.id,
            category=categories[segment.class_index],
            caption=captions[segment.query],
            score=segment.score,
        )
        for segment in merged
    ]


def semantic_map(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Evidence for each class at each pixel, all queries added up.

    Args:
        class_logits: ``[Q, K + 1]``.
        mask_logits: ``[Q, H, W]``.

    Returns:
        float32 ``[K, H, W]``.
    """
    probabilities = class_logits.float().softmax(-1)[:, :-1]
    with torch.autocast(mask_logits.device.type, enabled=False):
        return torch.einsum("qk,qhw->khw", probabilities, mask_logits.float().sigmoid())


@dataclass(frozen=True, eq=False)
class Instances:
    """Things, which may overlap; the same query may be several with different classes.

    Attributes:
        masks: bool ``[N, H, W]``.
        classes: int64 ``[N]``.
        scores: float32 ``[N]``, class probability times the mean mask probability inside.
        captioned_by: int64 ``[N]``, the query of the caption: the instance's own, and the last
            object's for the class token, which has none.
    """

    masks: Tensor
    classes: Tensor
    scores: Tensor
    captioned_by: Tensor


def instances(
    class_logits: Tensor, mask_logits: Tensor, things: Collection[int], top: int = 100
) -> Instances:
    """The likeliest pairs of a query and a class, of which those of things are kept.

    Args:
        class_logits: ``[Q, K + 1]``.
        mask_logits: ``[Q, H, W]``.
        things: classes that are instances.
        top: how many pairs are looked at.
    """
    probabilities = class_logits.float().softmax(-1)[:, :-1]
    num_queries, num_classes = probabilities.shape
    scores, pairs = probabilities.flatten().topk(min(top, probabilities.numel()), sorted=False)
    classes, queries = pairs % num_classes, pairs // num_classes
    kept = torch.isin(classes, torch.tensor(sorted(things), device=classes.device))
    scores, classes, queries = scores[kept], classes[kept], queries[kept]
    logits = mask_logits[queries].float()
    masks = logits > 0
    inside = (logits.sigmoid() * masks).flatten(1).sum(1) / (masks.flatten(1).sum(1) + 1e-6)
    return Instances(masks, classes, scores * inside, queries.clamp(max=num_queries - 2))
