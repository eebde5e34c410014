"""Assignment, points, matching and losses beyond the golden cases."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor
from torch.nn import functional as F

from fastregion.models.pix2cap.assignment import linear_sum_assignment
from fastregion.models.pix2cap.criterion import Pix2CapCriterion, caption_loss
from fastregion.models.pix2cap.matching import match_captions, shrink_masks
from fastregion.models.pix2cap.output import Pix2CapOutput
from fastregion.models.pix2cap.points import sample_points, uncertain_points, uniform_points
from fastregion.models.pix2cap.targets import Targets

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (6, 2), (2, 6), (200, 31), (31, 200), (4, 0)])
def test_assignments_are_those_of_scipy(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        cost = rng.normal(size=shape).astype(np.float32) * 10
        rows, columns = linear_sum_assignment(cost)
        expected = optimize.linear_sum_assignment(cost)
        assert np.array_equal(rows, expected[0])
        assert np.array_equal(columns, expected[1])


def test_assignments_are_the_cheapest_of_all() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        cost = rng.integers(-5, 6, (5, 4)).astype(float)  # with many ties
        cost[rng.random((5, 4)) < 0.15] = np.inf
        cheapest = min(
            sum(cost[row, column] for column, row in enumerate(rows))
            for rows in itertools.permutations(range(5), 4)
        )
        if np.isinf(cheapest):
            with pytest.raises(ValueError, match="no assignment has a finite cost"):
                linear_sum_assignment(cost)
            continue
        rows, columns = linear_sum_assignment(cost)
        assert len(set(rows.tolist())) == len(set(columns.tolist())) == 4
        assert cost[rows, columns].sum() == cheapest


@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
def test_costs_that_are_no_numbers_are_refused(wrong: float) -> None:
    cost = np.zeros((3, 2))
    cost[1, 1] = wrong
    with pytest.raises(ValueError, match="cost: must not hold NaN or minus infinity"):
        linear_sum_assignment(cost)
    with pytest.raises(ValueError, match=r"cost: expected shape \[N, M\], got \(3,\)"):
        linear_sum_assignment(np.zeros(3))


def test_points_are_read_between_pixels() -> None:
    maps = torch.arange(6.0).view(1, 2, 3)  # rows 0 1 2 and 3 4 5
    points = torch.tensor([[[0.5, 0.5], [1 / 6, 0.25], [5 / 6, 0.75], [1.0, 0.75]]])
    # The last lies on the border: half of it is read beyond, where there is zero.
    expected = torch.tensor([[2.5, 0.0, 5.0, 2.5]])
    torch.testing.assert_close(sample_points(maps, points), expected, rtol=0, atol=1e-5)
    two = maps.repeat(2, 1, 1)
    assert torch.equal(sample_points(two, points), sample_points(two, points.repeat(2, 1, 1)))


def test_most_points_are_where_a_mask_is_unsure() -> None:
    ramp = torch.linspace(-8, 8, 64).view(1, 1, 64).expand(2, 32, 64)
    generator = torch.Generator().manual_seed(0)
    points = uncertain_points(ramp, 200, 3.0, 0.75, uniform_points(CPU, generator))
    assert points.shape == (2, 200, 2)
    near = (points[..., 0] - 0.5).abs()
    assert float(near[:, :150].max()) < 0.25  # a quarter of those drawn
    assert float(near[:, 150:].mean()) > 0.2


def test_a_caption_of_an_empty_mask_goes_to_the_first_empty_query() -> None:
    predicted = torch.full((4, 4, 4), -1.0)
    predicted[0], predicted[1, :2], predicted[3, 2:] = 1.0, 1.0, 1.0
    masks = torch.zeros(3, 16, 16)
    masks[0, 8:], masks[2, :8] = 1, 1
    small = shrink_masks(masks, (4, 4))
    assert small.dtype == torch.bool
    assert match_captions(predicted, small).tolist() == [3, 2, 1]
    assert match_captions(predicted[[0, 1, 3]], small).tolist() == [2, 0, 1]
    assert match_captions(predicted, shrink_masks(masks[:0], (4, 4))).tolist() == []


def test_caption_loss_is_smoothed_cross_entropy_less_a_constant() -> None:
    logits, tokens = torch.randn(9, 12).requires_grad_(), torch.randint(1, 12, (9,))
    target = torch.full((9, 12), 0.1 / 11).scatter(1, tokens[:, None], 0.9)
    expected = F.kl_div(logits.log_softmax(-1), target, reduction="none").sum(1)
    torch.testing.assert_close(caption_loss(logits, tokens), expected.mean())
    padded = torch.cat((tokens[:4], torch.zeros(5, dtype=torch.long)))
    torch.testing.assert_close(caption_loss(logits, padded), expected[:4].mean())
    nothing = caption_loss(logits, torch.zeros(9, dtype=torch.long))
    assert float(nothing.detach()) == 0
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert gradient.count_nonzero() == 0


def prediction(batch: int = 2, queries: int = 7, classes: int = 4) -> Pix2CapOutput:
    def layer() -> dict[str, Tensor]:
        return {
            "class_logits": torch.randn(batch, queries, classes + 1, requires_grad=True),
            "mask_logits": torch.randn(batch, queries, 8, 8, requires_grad=True),
            "boxes": torch.zeros(batch, queries, 4),
            "object_features": torch.randn(batch, queries - 1, 2, 3, requires_grad=True),
            "queries": torch.zeros(batch, queries, 1),
        }

    return Pix2CapOutput(**layer(), auxiliary=(Pix2CapOutput(**layer()),))


def targets(*counts: int) -> list[Targets]:
    return [
        Targets(
            torch.randint(4, (count,)),
            torch.rand(count, 30, 25) < 0.3,
            tuple(f"caption {k}" for k in range(count)),
        )
        for count in counts
    ]


def caption_head(features: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    assert len(features) == len(captions)
    return features.flatten(1), torch.arange(1, 2)[:, None].expand(len(features), 1)[:, 0]


def test_gradients_reach_what_they_should() -> None:
    criterion = Pix2CapCriterion(num_classes=4, num_points=40, num_caption_layers=1)
    output = prediction()
    losses = criterion(output, targets(2, 3), caption_head, uniform_points(CPU))
    assert list(losses) == [
        *(f"loss_{name}_0" for name in ("mask_ce", "mask_bce", "mask_dice", "densecaption")),
        *(f"loss_{name}_1" for name in ("mask_ce", "mask_bce", "mask_dice")),
    ]
    sum(losses.values()).backward()  # type: ignore[union-attr]
    (earlier,) = output.auxiliary
    for layer in (output, earlier):
        assert layer.class_logits.grad is not None
        assert layer.class_logits.grad[:, -1].count_nonzero() == 0  # the class token has no loss
        assert layer.mask_logits.grad is not None
        assert (layer.mask_logits.grad.flatten(2) != 0).any(2).sum() == 5  # one query a target
    assert output.object_features.grad is not None
    assert earlier.object_features.grad is None


def test_mixed_precision_changes_no_match() -> None:
    """The last query is best by little: sums in bfloat16 would not tell."""
    criterion = Pix2CapCriterion(num_classes=4, num_points=400)
    full = torch.ones(1, 256, 256)
    surer = (3 + 0.001 * torch.arange(50.0))[:, None, None].expand(50, 64, 64)
    larger = torch.ones(50, 64, 64)
    for query in range(49):
        larger[query].view(-1)[: 49 - query] = -1
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            queries, _ = criterion.matcher(
                torch.zeros(50, 5),
                surer,
                torch.zeros(1, dtype=torch.long),
                full,
                uniform_points(CPU),
            )
            captioned = match_captions(larger, shrink_masks(full, (64, 64)))
        assert (queries.tolist(), captioned.tolist()) == ([49], [49])
    half = criterion.to(torch.bfloat16)
    losses = half(prediction(), targets(2, 1), caption_head, uniform_points(CPU))
    assert losses["loss_mask_ce_0"].dtype == torch.float32


def test_images_and_batches_without_targets() -> None:
    criterion = Pix2CapCriterion(num_classes=4, num_points=40)
    for counts in ((0, 3), (0, 0)):
        output = prediction()
        losses = criterion(output, targets(*counts), caption_head, uniform_points(CPU))
        total = sum(losses.values())
        assert isinstance(total, Tensor)
        assert torch.isfinite(total)
        assert (float(losses["loss_mask_bce_0"].detach()) == 0) == (counts == (0, 0))
        total.backward()
        assert output.class_logits.grad is not None
    with pytest.raises(ValueError, match="targets: expected one for each of 2 images, got 1"):
        criterion(prediction(), targets(1), caption_head, uniform_points(CPU))


def test_more_targets_than_queries() -> None:
    criterion = Pix2CapCriterion(num_classes=4, num_points=16)
    losses = criterion(prediction(1), targets(9), caption_head, uniform_points(CPU))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_targets_are_checked() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    with pytest.raises(TypeError, match=r"masks: dtype must be bool, got torch\.uint8"):
        Targets(torch.zeros(2, dtype=torch.long), masks.byte(), ("a", "b"))
    with pytest.raises(TypeError, match=r"classes: dtype must be int64, got torch\.int32"):
        Targets(torch.zeros(2, dtype=torch.int32), masks, ("a", "b"))
    with pytest.raises(ValueError, match=r"targets: expected classes \[1\]"):
        Targets(torch.zeros(2, dtype=torch.long), masks, ("a",))
    with pytest.raises(ValueError, match=r"masks: must be at most \(4, 32\)"):
        Targets(torch.zeros(2, dtype=torch.long), masks, ("a", "b")).padded_masks((4, 32))
