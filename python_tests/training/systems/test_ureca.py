"""URECA on the trainer: samples from rows, batches, and the two stages on a tiny model."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_ureca
import torch
from captioner_checks import NEW
from PIL import Image

from fastregion.models import load
from fastregion.models.ureca import UrecaCaptioner
from fastregion.regions import Region
from fastregion.training.data import BadRow, Record, Turn
from fastregion.training.data.augmentation import python_random
from fastregion.training.systems.ureca import (
    Options,
    UrecaBatch,
    UrecaTask,
)
from fastregion.training.systems.ureca_stages import train_lora, train_mask_encoder

SIZE = (50, 70)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
REGION = Region.from_box((40, 30, 70, 50), SIZE)
OTHER = Region.from_box((2, 3, 20, 30), SIZE)
TURNS = (
    Turn(speaker="human", text="<image>\n<mask>\nWhat is it?"),
    Turn(speaker="gpt", text="A thing!"),
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def row(size: tuple[int, int] = SIZE, **more: Any) -> Record:
    regions = more.pop(
        "regions", (REGION if size == SIZE else Region.from_box((0, 0, 9, 9), size),)
    )
    return Record(
        **{
            "id": "1",
            "image": lambda: IMAGE[: size[0], : size[1]],
            "regions": lambda: regions,
            "num_regions": len(regions),
            "turns": TURNS,
            **more,
        }
    )


def tiny_task(captioner: UrecaCaptioner | None = None, **options: Any) -> UrecaTask:
    return UrecaTask(captioner or tiny_ureca.captioner(), Options(max_tiles=4, **options))


def batch_of(task: UrecaTask) -> UrecaBatch:
    """Two pictures with different numbers of tiles."""
    return task.collate([task.sample(row(), rng()), task.sample(row((20, 20)), rng())])


def mean(task: UrecaTask, batch: UrecaBatch) -> torch.Tensor:
    total, targets, _ = task.step(batch)
    return total / targets


def take_steps(task: UrecaTask, batch: UrecaBatch, count: int = 8) -> list[float]:
    """Losses of some steps of training."""
    optimizer = torch.optim.AdamW([p for p in task.step.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = mean(task, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def task() -> UrecaTask:
    return tiny_task()


# ---- samples ----


def test_a_sample(task: UrecaTask) -> None:
    sample = task.sample(row(), rng())
    captioner = task.captioner
    assert torch.equal(sample.tiles, captioner.tiling.image(IMAGE))
    assert torch.equal(sample.masks, captioner.tiling.mask(REGION))
    (prompt,) = sample.prompts
    assert (list(prompt.image), list(prompt.masks)) == ([0, 1, 2, 3, 4],) * 2
    assert task.num_tokens(sample) == len(prompt.input_ids)
    assert task.decoded(sample).endswith(
        "<|im_start|>user\n<img><IMG_CONTEXT>*20</img>\n<mask><MASK_CONTEXT>*20</mask>\n"
        "What is it?<|im_end|>\n<|im_start|>assistant\n[[A thing!<|im_end|>]]\n"
    )
    # What the annotation pipeline writes has no place for the mask.
    for text in ("<image>\nWhat is it?", "What is it?"):
        turns = (Turn(speaker="human", text=text), TURNS[1])
        assert task.sample(row(turns=turns), rng()).prompts == sample.prompts


def test_captions_share_the_picture(task: UrecaTask) -> None:
    captions = (("A thing.",), ("Another.", "A second."))
    record = row(regions=(REGION, OTHER), turns=(), captions=captions)
    sample = task.sample(record, rng())
    assert len(sample.tiles) == 5
    assert torch.equal(
        sample.masks, torch.cat([task.captioner.tiling.mask(one) for one in (REGION, OTHER)])
    )
    assert [list(prompt.image) for prompt in sample.prompts] == [[0, 1, 2, 3, 4]] * 2
    assert [list(prompt.masks) for prompt in sample.prompts] == [[*range(5)], [*range(5, 10)]]
    first = task.decoded(sample).split("<|im_start|>system")[1]
    assert "Describe this region in the image.<|im_end|>" in first
    assert "[[A thing.<|im_end|>]]" in first
    drawn = {
        task.decoded(task.sample(record, np.random.default_rng(seed))).rsplit("[[")[-1]
        for seed in range(12)
    }
    assert drawn == {"Another.<|im_end|>]]\n", "A second.<|im_end|>]]\n"}
    # The loss is that of two rows with one region each.
    alone = [
        task.sample(row(regions=(region,), turns=(), captions=((text,),)), rng())
        for region, text in ((REGION, "A thing."), (OTHER, "Another."))
    ]
    together = next(
        one
        for one in (task.sample(record, np.random.default_rng(seed)) for seed in range(12))
        if "Another" in task.decoded(one)
    )
    with torch.no_grad():
        found, expected = (task.step(task.collate(some)) for some in ([together], alone))
    assert found.targets == expected.targets
    torch.testing.assert_close(found.total, expected.total)


def test_most_tiles_and_jpeg_augmentation(task: UrecaTask) -> None:
    assert len(task.sample(row(max_tiles=1), rng()).tiles) == 1
    published = UrecaTask(tiny_ureca.captioner())
    assert len(published.sample(row(), rng()).tiles) == 7
    assert published.captioner.config.max_dynamic_patch == 6
    plain = task.sample(row(), rng())
    rough = task.sample(row(jpeg_augmentation=True), rng())
    assert torch.equal(rough.masks, plain.masks)
    assert rough.prompts == plain.prompts
    assert rough.tiles.shape == plain.tiles.shape
    draws = python_random(rng())
    for tile, before in zip(rough.tiles, plain.tiles, strict=True):  # each with its own quality
        file = io.BytesIO()
        pixels = Image.fromarray(before.permute(1, 2, 0).contiguous().numpy())
        pixels.save(file, format="JPEG", quality=draws.randint(75, 100))
        expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        assert torch.equal(tile, expected)
    assert not torch.equal(rough.tiles, plain.tiles)


def turns(*texts: str) -> tuple[Turn, ...]:
    speakers = ("human", "gpt") * len(texts)
    return tuple(Turn(speaker=s, text=t) for s, t in zip(speakers, texts, strict=False))


@pytest.mark.parametrize(
    ("more", "said", "kind"),
    [
        ({"regions": ()}, "mask: expected a region, got none", "empty mask"),
        ({"regions": (REGION, OTHER)}, "expected one region to a conv.*got 2", "too many regions"),
        (
            {"regions": (Region.from_box((0, 0, 2, 2), (50, 71)),)},
            r"mask: expected shape \(50, 70\) to match the image, got \(50, 71\)",
            "size mismatch",
        ),
        ({"turns": turns("What?", " ")}, "expected text in every answer", "no text"),
        ({"turns": turns("What?")}, "must be turns of 'human' and 'gpt'", "malformed row"),
        (
            {"turns": turns("<mask><mask> What?", "A.")},
            "must contain '<mask>' once for each of 1 regions, got 2",
            "malformed row",
        ),
        (
            {"turns": turns("What?", "An <IMG_CONTEXT>.")},
            r"expected 20 places for image tokens within \d+ tokens, got 21",
            "malformed row",
        ),
        (
            {"turns": turns("What? " * 9000, "A.")},
            "expected an answer within 8192 tokens, got none",
            "no text",
        ),
        (
            {"turns": turns("What? " * 9000 + "<image><mask>", "A.")},
            "expected 20 places for image tokens within 8192 tokens, got 0",
            "malformed row",
        ),
        ({"turns": ()}, "captions: expected one for each of 1 regions, got 0", "no text"),
        (
            {"turns": (), "captions": ((),)},
            "captions: expected text, got none for region 0",
            "no text",
        ),
        ({"turns": (), "captions": (("",),)}, "captions: expected text, got none", "no text"),
    ],
)
def test_rows_that_cannot_be_learned(
    task: UrecaTask, more: dict[str, Any], said: str, kind: str
) -> None:
    with pytest.raises(BadRow, match=said) as bad:
        task.sample(row(**more), rng())
    assert bad.value.kind == kind


def test_several_regions_in_a_conversation() -> None:
    task = tiny_task(tiny_ureca.captioner(multi_region=True))
    asked = turns("<image>\nIs <mask> left of <mask>?", "No.")
    sample = task.sample(row(regions=(REGION, OTHER), turns=asked), rng())
    (prompt,) = sample.prompts
    assert len(prompt.masks) == len(sample.masks) == 10
    assert "Is <mask><MASK_CONTEXT>*20</mask> left of <mask><MASK_CONTEXT>*20" in task.decoded(
        sample
    )


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match=r"options\.max_tiles: must be at least 1, got 0"):
        Options(max_tiles=0)


def test_a_batch(task: UrecaTask) -> None:
    batch = batch_of(task)
    assert len(batch.tiles) == len(batch.masks) == 6
    assert [list(prompt.image) for prompt in batch.prompts] == [[0, 1, 2, 3, 4], [5]]
    moved = batch.to("meta")
    assert moved.tiles.is_meta
    assert moved.masks.is_meta
    assert moved.prompts == batch.prompts
    with torch.no_grad():
        whole = task.step(batch)
        apart = [
            task.step(task.collate([task.sample(row(size), rng())])) for size in (SIZE, (20, 20))
        ]
    assert whole.targets == sum(one.targets for one in apart)
    torch.testing.assert_close(whole.total, apart[0].total + apart[1].total)
    # With nothing to hide there is no mask of keys, which fast attention could not do.
    assert batch.visible is None
    hidden = task.sample(row(turns=turns("What?", "A<unk>thing")), rng())
    (prompt,) = hidden.prompts
    assert list(prompt.input_ids).count(0) == list(prompt.labels or ()).count(0) == 1
    found = task.collate([hidden])
    assert found.visible is not None
    assert torch.equal(found.visible, torch.tensor(prompt.input_ids) != 0)
    assert tiny_task(hide_zero_ids=False).collate([hidden]).visible is None


# ---- stage 1 ----


@pytest.mark.parametrize("internlm2", [False, True])
def test_stage_1_moves_the_mask_encoder_alone(tmp_path: Path, internlm2: bool) -> None:
    task = tiny_task(tiny_ureca.captioner(internlm2=internlm2))
    captioner = task.captioner
    trained = train_mask_encoder(captioner)
    assert set(trained) == {
        f"{part}.{kind}"
        for part in ("mask_encoder.0", "mask_encoder.2", "mask_linear")
        for kind in ("weight", "bias")
    }
    batch = batch_of(task)
    task.step.train()
    losses, gradients = [], []
    for checkpointing in (False, True):
        captioner.model.set_gradient_checkpointing(checkpointing)
        captioner.model.zero_grad()
        loss = mean(task, batch)
        loss.backward()
        losses.append(loss.item())
        gradients.append(captioner.model.mask_tokens.mask_linear.weight.grad.clone())
    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0
    before = {name: p.detach().clone() for name, p in captioner.model.named_parameters()}
    found = take_steps(task, batch)
    assert found[-1] < found[0]
    for name, parameter in captioner.model.named_parameters():
        same = torch.equal(parameter, before[name])
        assert same != name.startswith("mask_tokens."), name
    task.save(tmp_path)
    again = load(tmp_path).model.state_dict()
    assert all(torch.equal(again[name], p) for name, p in captioner.model.state_dict().items())


def test_stage_1_of_arch_2() -> None:
    values = tiny_ureca.config_values(arch=2, force_image_size=64, num_mask_token=4)
    values["vision_config"] |= {"image_size": 64, "patch_size": 2}
    captioner = tiny_ureca.captioner(
        **{k: v for k, v in values.items() if k not in ("llm_config", "model_type")}
    )
    task = UrecaTask(captioner, Options(max_tiles=2))
    train_mask_encoder(captioner)
    both = row(regions=(REGION, OTHER), turns=(), captions=(("A.",), ("B.",)))
    alone = [
        row(regions=(region,), turns=(), captions=((text,),))
        for region, text in ((REGION, "A."), (OTHER, "B."))
    ]
    found, expected = (
        task.step(task.collate([task.sample(one, rng()) for one in rows]))
        for rows in ([row((20, 20)), both], [row((20, 20)), *alone])
    )
    torch.testing.assert_close(found.total, expected.total)
    found.total.backward()
    for name, parameter in captioner.model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("mask_tokens."), name


def test_mixed_precision(task: UrecaTask) -> None:
    task = tiny_task()
    train_mask_encoder(task.captioner)
    batch = batch_of(task)
    expected = task.step(batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.step(batch)
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.total, expected.total, rtol=2e-2, atol=0)
    loss.total.backward()
    grads = [p.grad for p in task.captioner.model.mask_tokens.parameters()]
    assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in grads)


# ---- stage 2 ----


@pytest.mark.parametrize("internlm2", [False, True])
def test_stage_2_trains_lora_alone(tmp_path: Path, internlm2: bool) -> None:
    task = tiny_task(tiny_ureca.captioner(internlm2=internlm2))
    captioner, model = task.captioner, task.captioner.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    start = captioner.score(IMAGE, REGION, "A thing!")
    trained = train_lora(captioner, rank=4)
    # Queries, keys and values of InternLM2 are one layer: they share what goes in.
    assert len(trained) == 2 * (2 * 7 - (2 if internlm2 else 0))
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    layer = captioner.decoder.model.layers[0].self_attn.q_proj
    assert (layer.scale, layer.dropout) == (2.0, 0.05)
    assert layer.lora_A["default"].weight.abs().max() <= 1 / math.sqrt(32)
    assert not layer.lora_B["default"].weight.any()
    batch = batch_of(task)
    task.step.train()
    losses = take_steps(task, batch)
    task.step.eval()
    loss = mean(task, batch).item()
    assert loss < losses[0]
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in before.items())

    with pytest.raises(TypeError, match="merge adapters into the weights first"):
        captioner.describe(IMAGE, REGION, **NEW)
    with pytest.raises(ValueError, match="decoder: has LoRA layers already"):
        train_lora(captioner, rank=4)
    # Updates are saved beside the weights, and folded when they are read.
    task.save(tmp_path / "unmerged")
    folded = load(tmp_path / "unmerged")
    assert isinstance(folded, UrecaCaptioner)
    captioner.merge_lora()
    captioner.save_pretrained(tmp_path / "merged")
    for one in (captioner, folded, load(tmp_path / "merged")):
        assert isinstance(one, UrecaCaptioner)
        assert one.config == captioner.config
        found = mean(UrecaTask(one, task.options), batch)
        assert found.item() == pytest.approx(loss, rel=1e-5)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert len(changed) == 2 * 7
    assert all("_proj.weight" in name for name in changed)
    assert captioner.score(IMAGE, REGION, "A thing!") > start
