"""The merge beyond the golden cases: a naive loop, and what predictions may hold."""

from __future__ import annotations

import torch
from torch import Tensor

from fastregion.models.categories import COCO_PANOPTIC
from fastregion.models.pix2cap.postprocessing import (
    instances,
    keep_queries,
    merge_segments,
    resize_masks,
    segments,
    semantic_map,
)


def naive_merge(
    class_logits: Tensor, masks: Tensor, things: set[int], keep: float, overlap: float
) -> tuple[list[list[int]], list[tuple[int, int, int]]]:
    """The published rules pixel by pixel."""
    rows = []
    for query in range(len(class_logits) - 1):
        probabilities = class_logits[query].softmax(0).tolist()
        score = max(probabilities)
        label = probabilities.index(score)
        if label < len(probabilities) - 1 and score > keep:
            rows.append((query, label, score, masks[query].sigmoid().tolist()))
    height, width = masks.shape[1:]
    owner = [[-1] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            best = -1.0
            for k, (_, _, score, p) in enumerate(rows):
                if score * p[y][x] > best:
                    best, owner[y][x] = score * p[y][x], k
    result = [[0] * width for _ in range(height)]
    found: list[tuple[int, int, int]] = []
    stuff: dict[int, int] = {}
    pixels = [(y, x) for y in range(height) for x in range(width)]
    for k, (query, label, _, p) in enumerate(rows):
        owned = [(y, x) for y, x in pixels if owner[y][x] == k]
        own = [(y, x) for y, x in pixels if p[y][x] >= 0.5]
        final = [(y, x) for y, x in owned if p[y][x] >= 0.5]
        if not (owned and own and final) or len(owned) / len(own) < overlap:
            continue
        number = stuff.get(label, 0)
        if not number:
            found.append((query, label, len(found) + 1))
            number = len(found)
            if label not in things:
                stuff[label] = number
        for y, x in final:
            result[y][x] = number
    return result, found


def test_against_a_naive_loop() -> None:
    merged_in_all = 0
    for _ in range(12):
        class_logits = torch.randn(9, 5) * 4
        masks = torch.randn(9, 11, 8).cumsum(1) + torch.randn(9, 1, 1) * 2
        kept = keep_queries(class_logits, 0.5)
        panoptic, merged = merge_segments(kept, masks[kept.queries], (11, 8), {0, 1}, 0.4)
        expected, records = naive_merge(class_logits, masks, {0, 1}, 0.5, 0.4)
        assert panoptic.tolist() == expected
        assert [(one.query, one.class_index, one.id) for one in merged] == records
        merged_in_all += len(merged)
    assert merged_in_all > 10


def test_nothing_kept_is_a_void_map() -> None:
    class_logits = torch.zeros(5, 134)
    class_logits[:, -1] = 9
    kept = keep_queries(class_logits)
    masks = resize_masks(torch.randn(5, 8, 8)[kept.queries], (32, 32), (20, 30), (40, 60))
    assert masks.shape == (0, 40, 60)
    panoptic, merged = merge_segments(kept, masks, (40, 60), set(range(80)))
    assert panoptic.shape == (40, 60)
    assert panoptic.count_nonzero() == 0
    assert segments(panoptic, merged, COCO_PANOPTIC, {}) == []


def test_the_class_token_has_no_place_in_the_merge() -> None:
    class_logits = torch.zeros(3, 5)
    class_logits[1, 2] = class_logits[2, 1] = 9.0
    kept = keep_queries(class_logits)
    assert kept.queries.tolist() == [1]
    found = instances(class_logits, torch.ones(3, 4, 4), {1}, top=2)
    assert found.captioned_by.tolist() == [1]  # the last object's caption, as published


def test_half_precision_predictions() -> None:
    class_logits, masks = torch.randn(6, 8) * 3, torch.randn(6, 16, 16) * 4
    half = class_logits.bfloat16(), masks.bfloat16()
    assert semantic_map(*half).dtype == torch.float32
    assert resize_masks(half[1], (64, 64), (50, 64), (25, 32)).dtype == torch.float32
    assert keep_queries(half[0]).scores.dtype == torch.float32


def test_fewer_pairs_than_asked_for() -> None:
    found = instances(torch.randn(2, 3), torch.randn(2, 4, 4), {0, 1}, top=100)
    assert len(found.scores) == 4


def test_segments_know_category_score_and_caption() -> None:
    class_logits = torch.full((3, 134), -9.0)
    class_logits[0, 16] = class_logits[1, 125] = 9.0
    masks = torch.full((3, 4, 6), -9.0)
    masks[0, :2], masks[1, 2:] = 9.0, 9.0
    kept = keep_queries(class_logits)
    panoptic, merged = merge_segments(kept, masks[kept.queries], (4, 6), set(range(80)))
    dog, grass = segments(panoptic, merged, COCO_PANOPTIC, {0: "A dog.", 1: "Some grass."})
    assert (dog.category.name, dog.caption, dog.id) == ("dog", "A dog.", 1)
    assert dog.box == (0, 0, 6, 2)
    assert grass.label == "grass-merged"
    assert not grass.category.isthing
    assert grass.score is not None
    assert 0.99 < grass.score <= 1
