"""Pix2Cap's matching and losses against numbers of the published code.

The network's predictions are the recorded ones: its own test is beside this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from golden_cases import GoldenCase, golden_cases
from torch import Tensor

from fastregion.models.pix2cap import criterion as criterion_module
from fastregion.models.pix2cap.criterion import Pix2CapCriterion
from fastregion.models.pix2cap.matching import match_captions, shrink_masks
from fastregion.models.pix2cap.output import Pix2CapOutput
from fastregion.models.pix2cap.points import Draw
from fastregion.models.pix2cap.targets import Targets

RELATIVE = 1e-4


@dataclass(frozen=True)
class Step:
    """A recorded training step; the last layer comes first, as the losses count."""

    criterion: Pix2CapCriterion
    output: Pix2CapOutput
    targets: list[Targets]
    expected: dict[str, Tensor]
    about: dict[str, Any]
    layers: list[int]

    def draw(self) -> Draw:
        """The recorded random points, which must fit what is asked for."""
        count = sum(key.startswith("train.rand.") for key in self.expected)
        recorded: Iterator[Tensor] = (self.expected[f"train.rand.{k:03d}"] for k in range(count))

        def draw(num_sets: int, num_points: int) -> Tensor:
            points = next(recorded)
            assert points.shape == (num_sets, num_points, 2)
            return points

        return draw

    def losses(
        self, matched: list[Tensor] | None = None, output: Pix2CapOutput | None = None
    ) -> dict[str, Tensor]:
        order = iter(self.layers)

        def caption_head(features: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
            assert list(captions) == [text for one in self.targets for text in one.captions]
            if matched is not None:
                matched.append(features[:, 0, 0].long())  # where a query has written its number
            logits = self.expected[f"train.layer{next(order)}.caption_logits"]
            return logits, self.expected["train.caption_targets"]

        return self.criterion(output or self.output, self.targets, caption_head, self.draw())


def recorded_step(case: GoldenCase) -> Step:
    expected, inputs = case.tensors("outputs"), case.tensors("inputs")
    about, values = case.json("outputs.json"), case.json("config.json")
    decoder = values["MODEL"]["DECODER"]
    criterion = Pix2CapCriterion(
        num_classes=len(values["class_names"]) - 1,
        class_weight=decoder["CLASS_WEIGHT"],
        mask_weight=decoder["MASK_WEIGHT"],
        dice_weight=decoder["DICE_WEIGHT"],
        caption_weight=decoder["DENSECAPTION_WEIGHT"],
        no_object_weight=decoder["NO_OBJECT_WEIGHT"],
        num_caption_layers=decoder["TOP_DENSECAPTION_LAYERS"],
        num_points=decoder["TRAIN_NUM_POINTS"],
        oversample=decoder["OVERSAMPLE_RATIO"],
        importance=decoder["IMPORTANCE_SAMPLE_RATIO"],
    )
    layers = list(range(decoder["DEC_LAYERS"]))
    outputs = []
    for layer in layers:
        class_logits = expected[f"train.layer{layer}.pred_logits"]
        batch, queries = class_logits.shape[:2]
        numbers = torch.arange(queries - 1.0)[None, :, None, None].expand(batch, -1, 2, 1)
        outputs.append(
            Pix2CapOutput(
                class_logits=class_logits,
                # Masks do not depend on the names of the classes, which are all that differs.
                mask_logits=expected[f"eval.decoder.layer{layer}.pred_masks"],
                boxes=torch.zeros(batch, queries, 4),
                object_features=numbers,
                queries=torch.zeros(batch, queries, 1),
            )
        )
    targets = [
        Targets(inputs[f"gt_classes{b}"], inputs[f"gt_masks{b}"].bool(), tuple(captions))
        for b, captions in enumerate(about["captions"])
    ]
    output = replace(outputs[-1], auxiliary=tuple(outputs[:-1]))
    return Step(criterion, output, targets, expected, about, layers[::-1])


@golden_cases("pix2cap", "model")
def test_losses(case: GoldenCase) -> None:
    step = recorded_step(case)
    matched: list[Tensor] = []
    losses = step.losses(matched)
    assert set(losses) == set(step.about["train.weight_dict"])
    for name, loss in losses.items():
        torch.testing.assert_close(
            loss, step.expected[f"train.loss_weighted.{name}"], rtol=RELATIVE, atol=0, msg=name
        )
        raw = loss / step.about["train.weight_dict"][name]
        torch.testing.assert_close(
            raw, step.expected[f"train.loss_raw.{name}"], rtol=RELATIVE, atol=0, msg=name
        )
    total = torch.stack(list(losses.values())).sum()
    torch.testing.assert_close(total, step.expected["train.loss_total"], rtol=RELATIVE, atol=0)
    assert len(matched) > 0
    for layer, queries in zip(step.layers, matched, strict=False):
        assert torch.equal(queries, step.expected[f"train.layer{layer}.matched_query"])


@golden_cases("pix2cap", "model")
def test_assignments_are_equal(case: GoldenCase) -> None:
    step, found = recorded_step(case), []

    class Watched:
        def __init__(self, matcher: Any) -> None:
            self.matcher = matcher

        def __call__(self, *arguments: Any) -> Any:
            found.append(self.matcher(*arguments))
            return found[-1]

    step.criterion.matcher = Watched(step.criterion.matcher)  # type: ignore[assignment]
    step.losses()
    pairs = [(k, b) for k in range(len(step.layers)) for b in range(len(step.targets))]
    assert len(found) == len(pairs)
    for (k, b), (queries, targets) in zip(pairs, found, strict=True):
        where = f"train.hungarian.loss{k}.image{b}"
        assert torch.equal(queries, step.expected[f"{where}.src"]), where
        assert torch.equal(targets, step.expected[f"{where}.tgt"]), where


@golden_cases("pix2cap", "model")
def test_captions_belong_to_the_best_mask(case: GoldenCase) -> None:
    step = recorded_step(case)
    for layer, output in zip(
        step.layers, (step.output, *reversed(step.output.auxiliary)), strict=True
    ):
        height, width = output.mask_logits.shape[2:]
        found = [
            match_captions(
                output.mask_logits[b, :-1],
                shrink_masks(image.padded_masks((4 * height, 4 * width)).float(), (height, width)),
            )
            for b, image in enumerate(step.targets)
        ]
        assert torch.equal(torch.cat(found), step.expected[f"train.layer{layer}.matched_query"])


@golden_cases("pix2cap", "model")
def test_every_part_of_the_losses_counts(case: GoldenCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above would find if a part were switched off."""
    step = recorded_step(case)
    right = step.losses()

    def moved(losses: dict[str, Tensor]) -> set[str]:
        """Kinds of losses that are no longer what they were."""
        return {
            name.split("_", 1)[1].rsplit("_", 1)[0]
            for name, loss in losses.items()
            if abs(float(loss) - float(right[name])) > 5 * RELATIVE * abs(float(right[name]))
        }

    assert moved(step.losses()) == set()
    weight = step.criterion.empty_weight.clone()
    step.criterion.empty_weight.fill_(1.0)
    assert moved(step.losses()) == {"mask_ce"}, "the weight of no object"
    step.criterion.empty_weight.copy_(weight)

    unsmoothed = criterion_module.caption_loss
    with monkeypatch.context() as patch:
        patch.setattr(
            criterion_module, "caption_loss", lambda logits, ids: unsmoothed(logits, ids, 1e-6)
        )
        assert moved(step.losses()) == {"densecaption"}, "label smoothing"
    with monkeypatch.context() as patch:
        patch.setattr(
            criterion_module,
            "uncertain_points",
            lambda logits, count, oversample, importance, draw: (
                draw(len(logits), int(count * oversample))[:, :count],
                draw(len(logits), count - int(importance * count)),
            )[0],
        )
        assert moved(step.losses()) >= {"mask_bce", "mask_dice"}, "points where masks are unsure"
    shifted = [replace(one, masks=one.masks.roll(7, 2)) for one in step.targets]
    assert moved(replace(step, targets=shifted).losses()) >= {"mask_bce", "mask_dice"}
    num_classes = len(step.criterion.empty_weight) - 1
    others = [replace(one, classes=(one.classes + 1) % num_classes) for one in step.targets]
    assert "mask_ce" in moved(replace(step, targets=others).losses())
    # The class token has no part in it, wherever its mask is.
    output = replace(step.output, class_logits=step.output.class_logits.clone())
    output.class_logits[:, -1] = 9.0
    assert moved(step.losses(output=output)) == set()
