"""Pix2Cap on the trainer: samples from rows, batches, and a tiny model that learns."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pix2cap
import torch
from torch.multiprocessing.spawn import start_processes

from fastregion.models import load
from fastregion.models.patterns import fits
from fastregion.models.pix2cap import Pix2CapCaptioner, Pix2CapConfig, criterion
from fastregion.models.pix2cap.text_encoder import draw_sentences
from fastregion.regions import Region
from fastregion.training.data import BadRow, Record
from fastregion.training.optimizers import build_optimizers
from fastregion.training.recipe import read_recipe
from fastregion.training.schedule import learning_rate_factor
from fastregion.training.systems import build_task
from fastregion.training.systems.pix2cap import Options, Pix2CapBatch, Pix2CapTask
from fastregion.training.systems.pix2cap_view import View

SIZE = (60, 90)
RECIPE = read_recipe("pix2cap")


def row(**more: Any) -> Record:
    """A red dog on the left of a blue sky."""
    left = np.zeros(SIZE, bool)
    left[:, :40] = True
    image = np.where(left[..., None], (200, 30, 30), (30, 60, 220)).astype(np.uint8)
    regions = (Region.from_mask(left), Region.from_mask(~left))
    return Record(
        **{
            "id": "1",
            "image": lambda: image,
            "regions": lambda: regions,
            "num_regions": 2,
            "captions": (("the red dog", "a dog"), ("a blue sky",)),
            "category_ids": (2, 3),
            **more,
        }
    )


def tiny_task(seed: int = 0, image_size: int = 96) -> Pix2CapTask:
    decoder = replace(tiny_pix2cap.config().decoder, train_num_points=256)
    captioner = tiny_pix2cap.captioner(seed, decoder=decoder)
    return Pix2CapTask(captioner, Options(image_size=image_size))


def freeze(task: Pix2CapTask) -> list[str]:
    """As published; gives our names of what is trained."""
    for name, parameter in task.parameters().items():
        parameter.requires_grad_(fits(name, RECIPE.train))
    return [name for name, p in task.step.model.named_parameters() if p.requires_grad]


@pytest.fixture(scope="module")
def task() -> Pix2CapTask:
    return tiny_task()


def test_a_sample(task: Pix2CapTask) -> None:
    seeds = range(12)
    samples = [task.sample(row(), np.random.default_rng(seed)) for seed in seeds]
    told = set()
    for seed, sample in zip(seeds, samples, strict=True):
        assert sample.image.shape == (3, 96, 96)
        assert sample.image.dtype == torch.uint8
        targets = sample.targets
        assert targets.classes.tolist() == [1, 2]  # dog and sky; 0 is a person
        assert targets.masks.shape == (2, 96, 96)
        told.add(targets.captions)
        # The view, the captions and the sentences are drawn in this order, from this generator.
        rng = np.random.default_rng(seed)
        view = View.draw(96, rng)
        assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), view.image(row().image()))
        rng.integers(2)  # of two captions; of one, none is drawn
        names = task.captioner.config.class_names
        assert sample.sentences == tuple(draw_sentences(names, rng))
        assert not targets.masks[0].logical_and(targets.masks[1]).any()
        red = sample.image[0].float() - sample.image[2].float()
        for mask, sign in zip(targets.masks, (1, -1), strict=True):
            if mask.any():
                assert (sign * red[mask]).median() > 100
    assert told == {("the red dog", "a blue sky"), ("a dog", "a blue sky")}
    again = task.sample(row(), np.random.default_rng(3))
    assert torch.equal(again.image, samples[3].image)
    assert again.sentences == samples[3].sentences


def test_what_the_crop_loses_stays_as_an_empty_mask(task: Pix2CapTask) -> None:
    edge = Region.from_box((0, 0, 9, 60), SIZE)
    rest = Region.from_mask(~edge.mask)
    found = [
        task.sample(row(regions=lambda: (edge, rest)), np.random.default_rng(seed)).targets
        for seed in range(30)
    ]
    seen = [targets.masks.flatten(1).any(1).tolist() for targets in found]
    assert [True, True] in seen
    assert [False, True] in seen


def test_a_sample_in_words(task: Pix2CapTask) -> None:
    sample = task.sample(row(captions=(("the red dog",), ("a blue sky",))), np.random.default_rng())
    assert task.decoded(sample) == "dog: [[the red dog]]\nsky-other-merged: [[a blue sky]]"
    assert task.num_tokens(sample) == 2 * (1 + 3 + 1)


@pytest.mark.parametrize(
    ("more", "said", "kind"),
    [
        (
            {"num_regions": 0, "captions": (), "category_ids": ()},
            "at least one region",
            "empty mask",
        ),
        ({"category_ids": ()}, "category_ids: expected one for each of 2 regions, got 0", None),
        ({"captions": ()}, "captions: expected one for each of 2 regions, got 0", None),
        ({"captions": (("a",), (" ",))}, "captions: expected text, got none .* 1", "no text"),
        ({"captions": (("a",), ())}, "captions: expected text, got none .* region 1", "no text"),
        ({"category_ids": (2, 4)}, "category_ids: 4 is no class of the model", None),
        (
            {"regions": lambda: (Region.from_box((0, 0, 2, 2), (60, 91)),) * 2},
            r"mask: expected shape \(60, 90\) to match the image, got \(60, 91\)",
            "size mismatch",
        ),
        (
            {"regions": lambda: (Region.from_box((0, 0, 2, 2), SIZE),) * 2},
            "masks: segments must not overlap, but those of region 0 and region 1 do",
            "malformed mask",
        ),
    ],
)
def test_rows_that_cannot_be_learned(
    task: Pix2CapTask, more: dict[str, Any], said: str, kind: str | None
) -> None:
    with pytest.raises(BadRow, match=said) as bad:
        task.sample(row(**more), np.random.default_rng(0))
    assert kind in (None, bad.value.kind)


def test_a_side_that_is_too_small() -> None:
    with pytest.raises(ValueError, match=r"options\.image_size: must be at least 32, got 16"):
        Options(image_size=16)


def whole_batch(task: Pix2CapTask, seeds: tuple[int, ...]) -> Pix2CapBatch:
    """Views in which nothing is lost, of as many rows as seeds."""
    samples = [task.sample(row(), np.random.default_rng(seed)) for seed in seeds]
    assert all(one.targets.masks.flatten(1).any(1).all() for one in samples)
    return task.collate(samples)


def test_a_batch(task: Pix2CapTask) -> None:
    samples = [task.sample(row(), np.random.default_rng(seed)) for seed in (0, 1)]
    batch = task.collate(samples)
    assert batch.sentences == samples[0].sentences
    moved = batch.to("meta")
    assert all(image.is_meta for image in moved.images)
    assert all(t.masks.is_meta and t.classes.is_meta for t in moved.targets)
    task.step.eval()
    loss = task.step(batch)
    assert loss.targets == 1
    assert loss.total.dtype == loss.targets.dtype == torch.float32
    torch.testing.assert_close(torch.stack(list(loss.parts.values())).sum(), loss.total.detach())
    layers = task.captioner.config.decoder.dec_layers
    assert len(loss.parts) == 4 * layers  # captions on at most 9 of them: here on all
    assert not any(part.requires_grad for part in loss.parts.values())
    assert not loss.targets.requires_grad


@torch.no_grad()
def judged(task: Pix2CapTask, batch: Pix2CapBatch) -> float:
    """The loss without chance."""
    torch.manual_seed(0)
    return task.step.eval()(batch).total.item()


def test_it_learns_what_is_trained_and_nothing_else(tmp_path: Path) -> None:
    task = tiny_task()
    trained = freeze(task)
    step = task.step.train()
    # What is frozen drops out as well: the backbone's branches among them.
    blocks = [m for m in step.model.backbone.modules() if getattr(m, "drop_path", 0)]
    assert blocks
    assert all(block.training for block in blocks)
    optimizer = torch.optim.AdamW([p for p in step.parameters() if p.requires_grad], lr=3e-3)
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    batch = whole_batch(task, (0, 5))
    first = judged(task, batch)
    for _ in range(8):
        optimizer.zero_grad()
        step.train()(batch).total.backward()
        torch.nn.utils.clip_grad_norm_(step.parameters(), 5.0)
        optimizer.step()
    assert judged(task, batch) < 0.8 * first
    for name, parameter in step.model.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in trained), name
    task.save(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, Pix2CapCaptioner)
    state = again.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in step.model.state_dict().items())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.05)])
def test_mixed_precision(dtype: torch.dtype, tolerance: float) -> None:
    task = tiny_task()
    freeze(task)
    batch = whole_batch(task, (0,))
    step = task.step.eval()
    losses = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype, enabled=enabled):
            losses.append(step(batch))
    assert losses[1].total.dtype == torch.float32
    torch.testing.assert_close(losses[1].total, losses[0].total, rtol=tolerance, atol=0)
    losses[1].total.backward()
    gradients = [p.grad for p in step.parameters() if p.requires_grad]
    assert all(grad is not None and grad.isfinite().all() for grad in gradients)


# ---- the recipe ----


def full_size() -> Pix2CapTask:
    """Without weights; the vocabularies do not matter."""
    return Pix2CapTask(Pix2CapCaptioner(Pix2CapConfig(), *tiny_pix2cap.tokenizer_pair()))


def test_the_published_recipe_trains_106_million_parameters() -> None:
    task = full_size()
    trained = freeze(task)
    assert not any("decoder_norm" in name or "lang_encoder" in name for name in trained)
    (optimizer,) = build_optimizers(task, RECIPE.optimizer)
    groups = {group["weight_decay"]: group for group in optimizer.param_groups}
    assert groups.keys() == {0.05, 0.0}
    assert all(group["lr_factor"] == 1 for group in groups.values())
    sizes = [sum(p.numel() for p in group["params"]) for group in groups.values()]
    assert round(sum(sizes) / 1e6, 1) == 106.0
    # Words and positions of captions; all others are vectors of norms. Biases do decay.
    exempt = groups[0.0]["params"]
    assert sorted(p.shape[0] for p in exempt if p.dim() > 1) == [1024, 30522]
    published = {id(p): name for name, p in task.parameters().items()}
    names = {published[id(p)].lower() for p in exempt if p.dim() == 1}
    assert all("norm" in name or "object_feature_projection.1" in name for name in names)
    decaying = {published[id(p)] for p in groups[0.05]["params"]}
    assert "sem_seg_head.predictor.transformer_ffn_layers.0.linear1.bias" in decaying
    assert not any("norm" in name.lower() for name in decaying)


def test_pretrained_parts_learn_ten_times_slower() -> None:
    task = full_size()
    (optimizer,) = build_optimizers(task, RECIPE.optimizer)
    published = {id(p): name for name, p in task.parameters().items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = published[id(parameter)]
            slow = "backbone" in name or "lang_encoder" in name
            assert group["lr_factor"] == (0.1 if slow else 1.0), name


def test_numbers_of_the_recipe() -> None:
    assert (RECIPE.optimizer.learning_rate, RECIPE.clip, RECIPE.precision) == (1e-4, 5.0, "fp16")
    factors = [
        learning_rate_factor(RECIPE.schedule, step, step / 1000, 1000)
        for step in (0, 888, 889, 962, 963, 999)
    ]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({}, ValueError, "start_from: pix2cap starts from a checkpoint, got none"),
        ({"start_from": "x", "lora": {"rank": 4}}, NotImplementedError, "lora: Pix2Cap is trained"),
        (
            {"start_from": "x", "gradient_checkpointing": True},
            NotImplementedError,
            "gradient_checkpointing: Pix2Cap is trained without",
        ),
        (
            {"start_from": "x", "fsdp": True, "precision": "bf16"},
            NotImplementedError,
            "fsdp: Pix2Cap is trained without",
        ),
        (
            {"start_from": "fastregion/mini"},
            ValueError,
            "start_from: expected a checkpoint of 'pix2cap', got .* in 'fastregion/mini'",
        ),
    ],
)
def test_recipes_that_cannot_be_built(
    change: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        build_task(read_recipe("pix2cap", change))


# ---- several processes ----


def fixed_points(task: Pix2CapTask) -> None:
    """The same points for all masks, in one process or in several."""

    def points(_: torch.device) -> Any:
        source = torch.rand(1, 4096, 2, generator=torch.Generator().manual_seed(0))
        return lambda sets, count: source[:, :count].expand(sets, -1, -1)

    task.step.points = points  # type: ignore[method-assign]


def uneven_rows() -> list[Record]:
    """One segment in the first picture, two in the second."""
    regions = row().regions()
    alone = row(
        regions=lambda: regions[:1], num_regions=1, captions=(("the dog",),), category_ids=(2,)
    )
    return [alone, row()]


def batches_of(task: Pix2CapTask) -> list[Pix2CapBatch]:
    samples = [task.sample(one, np.random.default_rng(0)) for one in uneven_rows()]
    return [task.collate([sample]) for sample in samples]


def _one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    task = tiny_task()
    freeze(task)
    fixed_points(task)
    wrapped = torch.nn.parallel.DistributedDataParallel(task.step.eval())
    loss = wrapped(batches_of(task)[rank])
    loss.total.backward()
    found = {name: p.grad for name, p in task.step.named_parameters() if p.grad is not None}
    torch.save((found, {k: v.item() for k, v in loss.parts.items()}), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_count_their_masks_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over two processes is what the published code computes.

    Mask losses are sums over all masks divided by the number of all masks; class and caption losses
    are the mean of the two processes' own means.
    """
    start_processes(_one_of_two, (str(tmp_path),), nprocs=2, start_method="fork")
    (grads, first), (same, second) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert all(torch.equal(grad, same[name]) for name, grad in grads.items())

    task = tiny_task()
    trained = freeze(task)
    fixed_points(task)
    step = task.step.eval()
    alone = [step(batch) for batch in batches_of(task)]
    for name in alone[0].parts:
        one, two = alone[0].parts[name].item(), alone[1].parts[name].item()
        if "bce" in name or "dice" in name:  # 1 mask and 2 masks: their sums, over 3 / 2
            one, two = one / 1.5, two * 2 / 1.5
        assert (first[name], second[name]) == pytest.approx((one, two), rel=1e-4), name

    # One process that is told the number of masks: gradients as under two.
    monkeypatch.setattr(criterion, "_mean_over_processes", lambda count, device: 1.5)
    (sum(step(batch).total for batch in batches_of(task)) / 2).backward()
    for name, parameter in task.step.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert grads.keys() == {f"model.{name}" for name in trained}, "every parameter has a gradient"
