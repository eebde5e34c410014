"""GAR's training against numbers of the published implementation, through the trainer's task."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import GoldenCase, golden_cases
from golden_gar import Official, assert_close

from fastregion.models.gar import GarCaptioner
from fastregion.models.gar.batch import Assembly, GarBatch, merge
from fastregion.models.gar.checkpoint import PUBLISHED
from fastregion.models.gar.processing import ProcessorConfig, choose_grid, cut_tiles, region_box
from fastregion.models.gar.prompts import (
    answer_labels,
    crop_token,
    named_regions,
    question_text,
)
from fastregion.regions import Region
from fastregion.training.data import Record, Turn
from fastregion.training.systems.gar_dialogue import Dialogue, caption_dialogue, make_dialogue
from fastregion.training.systems.token_step import TokenStep
from fastregion.training.texts import question_turns

NAMES = 5


def block(index: int) -> str:
    return f"{crop_token(index)}*256"


def turns_of(values: list[dict[str, str]]) -> tuple[Turn, ...]:
    return tuple(Turn(speaker=turn["from"], text=turn["value"]) for turn in values)


def record_of(case: GoldenCase, entry: dict[str, Any]) -> Record:
    count = entry.get("n_masks", 0)
    if entry["kind"] == "caption":
        turns: list[Any] = []
        for caption in entry["captions"][:count]:
            turns += [{"from": "human", "value": "?"}, {"from": "gpt", "value": caption}]
    else:
        turns = entry.get("input") or entry["conversations"]
    return Record(
        id="row",
        image=lambda: case.image("image"),
        regions=lambda: tuple(Region.from_mask(case.mask(f"mask_{k}")) for k in range(count)),
        num_regions=count,
        turns=turns_of(turns),
    )


@golden_cases("gar", "prompts")
def test_dialogues(case: GoldenCase) -> None:
    """Names, prompts and wording of every published dialogue, drawn from the published seed."""
    special = case.json("config.json")["special_token_ids"]
    seeds_count = not any(one["kind"] == "caption" for one in case.json("prompts.json")["training"])
    for entry in case.json("prompts.json")["training"]:
        record, kind = record_of(case, entry), entry["kind"]
        if kind == "caption":
            captions = [turn.text for turn in record.turns if turn.speaker == "gpt"]
            dialogue = caption_dialogue(captions, random.Random(entry["seed"]), block, NAMES)
            other = caption_dialogue(captions, random.Random(entry["seed"] + 1), block, NAMES)
            seeds_count |= other != dialogue
        else:
            dialogue = make_dialogue(record, np.random.default_rng(0), block, NAMES)
        roles = {"human": "user", "gpt": "assistant"}
        # The published turns still have the tag of the picture in their first one.
        expected = [
            (roles[turn["from"]], turn["value"].replace("<image>\n", ""))
            for turn in entry["conversations"]
        ]
        if kind == "relation":  # the published order of names is that of a set
            asked = question_turns(record.turns)[0].text
            names = named_regions(expected[0][1].partition("\n")[0])
            assert set(names) == set(dialogue.regions)
            theirs = question_text(names, [block(name) for name in names], asked)
            assert expected[0] == ("user", theirs)
            names = list(dialogue.regions)
            expected[0] = "user", question_text(names, [block(name) for name in names], asked)
        assert list(dialogue.turns) == expected
        check_regions(case, entry, record, dialogue, special)
    assert seeds_count


def check_regions(
    case: GoldenCase,
    entry: dict[str, Any],
    record: Record,
    dialogue: Dialogue,
    special: dict[str, int],
) -> None:
    """Which masks are marked and replayed."""
    regions, counts = record.regions(), entry["visual_prompt_counts"]
    marked = [regions[index].mask for index in dialogue.regions.values()]
    union = np.any(marked, axis=0) if marked else np.ones(case.image("image").shape[:2], bool)
    assert int((~union).sum()) == counts.get(str(NAMES), 0)
    for name, index in dialogue.regions.items():
        assert entry["bboxes"][str(special[crop_token(name)])] == list(region_box(regions[index]))
    if entry["kind"] == "caption":
        assert len(dialogue.regions) == len(entry["bboxes"])


@golden_cases("gar", "prompts")
def test_labels(case: GoldenCase) -> None:
    for entry in case.json("prompts.json")["label_mask"]:
        assert answer_labels(entry["input_ids"]) == entry["labels"]


def batch_of(case: GoldenCase, official: Official) -> GarBatch:
    """The case from its picture and masks on, with the published ids and labels."""
    about = case.json("inputs.json")
    processor = ProcessorConfig(tile_size=about["tile_size"], max_num_tiles=about["max_num_tiles"])
    image = case.image("image")
    grid = choose_grid(image.shape[1], image.shape[0], processor.tile_size, processor.max_num_tiles)
    regions = [Region.from_mask(case.mask(f"mask_{k}")) for k in range(len(about["prompt_ids"]))]
    batch = Assembly(
        cut_tiles(image, processor.tile_size, grid), grid, official.config.crop_tokens_ids
    )
    batch.look(regions)
    boxes = dict(zip(about["prompt_ids"], map(region_box, regions), strict=True))
    assert [list(box) for box in boxes.values()] == list(about["bboxes"].values())
    batch.add(official.given["input_ids"][0].tolist(), boxes, official.given["labels"][0].tolist())
    return merge([batch.finish({})])


@golden_cases("gar", "train_step")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_step(case: GoldenCase, tmp_path: Path, checkpointing: bool) -> None:
    official, expected = Official(case, tmp_path), case.tensors("outputs")
    model = official.model.train()
    model.set_gradient_checkpointing(checkpointing)
    captioner = GarCaptioner.__new__(GarCaptioner)  # the case has no tokenizer
    captioner.model = model
    step = TokenStep(model, model.decoder, captioner.encode)
    total, targets, _ = step(batch_of(case, official))
    assert targets == (official.given["labels"][:, 1:] != -100).sum()
    loss = total / targets
    loss.backward()
    relative = abs(loss.item() / expected["loss"].item() - 1)
    assert relative <= 1e-4, f"loss differs by {relative:.2e}"
    names = {name: PUBLISHED.published(name) for name, _ in model.named_parameters()}
    gradients = {names[name]: value.grad for name, value in model.named_parameters()}
    norms = case.json("grad_norms.json")
    assert set(gradients) == set(norms)
    for name, norm in norms.items():
        found = float(gradients[name].norm())
        assert abs(found - norm) <= 1e-4 * norm + 1e-7, f"gradient of {name}: {found} and {norm}"
    for key, value in expected.items():
        if key.startswith("grad."):
            name = key.removeprefix("grad.")
            error = float((gradients[name] - value).norm() / value.norm())
            assert error <= 1e-4, f"gradient of {name} differs by {error:.2e}"

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0)
    total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert abs(float(total) / float(expected["total_grad_norm"]) - 1) <= 1e-4
    before = {names[name]: value.detach().clone() for name, value in model.named_parameters()}
    optimizer.step()
    after = {names[name]: value.detach() for name, value in model.named_parameters()}
    for key, value in expected.items():
        if key.startswith("delta."):
            name = key.removeprefix("delta.")
            large = gradients[name].abs() > 1e-5  # elsewhere the sign of the gradient is rounding
            change = (after[name] - before[name])[large]
            assert_close(change, value[large], 2e-7, f"update of {name}")
