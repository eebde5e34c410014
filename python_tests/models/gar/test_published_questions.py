"""GAR asked as its published evaluation asks it: ``boxes = "released"``, on a tiny model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_gar
import torch
from captioner_checks import NEW

from fastregion.language import generate_text
from fastregion.models import base
from fastregion.models.gar import GarCaptioner
from fastregion.models.gar.processing import choose_grid, cut_masks, region_box
from fastregion.models.request import RegionRequest, TooManyRegionsError
from fastregion.regions import Region

SIZE = (50, 70)
QUESTION = (
    "Is <Prompt6> on <Prompt0>, <Prompt1>, <Prompt2>, <Prompt3> or <Prompt4>?\nA. <Prompt5> is."
)
ORDER = (6, 0, 1, 2, 3, 4, 5)  # of first appearance
SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)


@pytest.fixture(scope="module")
def captioner() -> GarCaptioner:
    made = tiny_gar.captioner(large=False)
    made.boxes = "released"
    return made


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def regions() -> list[Region]:
    boxes = [
        (0, 0, 9, 9), (40, 30, 70, 50), (2, 30, 20, 48), (45, 3, 60, 12), (30, 20, 41, 31),
        (12, 0, 30, 18), (35, 10, 50, 25),
    ]  # fmt: skip
    return [Region.from_box(box, SIZE) for box in boxes]


@pytest.fixture(scope="module")
def seven(image: np.ndarray, regions: list[Region]) -> RegionRequest:
    return RegionRequest(image, tuple(regions), QUESTION, joint=True)


def test_ids_of_seven_regions(captioner: GarCaptioner, seven: RegionRequest) -> None:
    """Written out: names beyond the fifth are letters, their placeholders stand in the prompt."""
    tokenizer, per_tile = captioner.tokenizer, captioner.config.tokens_per_tile
    (prompt,) = captioner.process(seven).prompts
    lines = [f"<Prompt{k}>: {f'<|reserved_special_token_{k + 2}|>' * per_tile}\n" for k in ORDER]
    text = (
        "<|begin_of_text|><|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        f"{SYSTEM}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        f"{'<|image|>' * per_tile * 5}There are some objects I am curious about: <Prompt6>; "
        "<Prompt0>; <Prompt1>; <Prompt2>; <Prompt3>; <Prompt4>; <Prompt5>; \n"
        f"{''.join(lines)}\n{QUESTION}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert list(prompt.input_ids) == tokenizer.encode(text)
    for k in range(7):
        token = tokenizer.token_id(f"<|reserved_special_token_{k + 2}|>")
        assert prompt.input_ids.count(token) == per_tile
        assert (token in prompt.regions) == (k < 5)
    assert prompt.input_ids.count(tokenizer.token_id("<Prompt4>")) == 3
    assert len(tokenizer.encode("<Prompt5>")) == len("<Prompt5>")  # ordinary text


def test_the_first_five_are_marked_and_the_last_box_is_replayed(
    captioner: GarCaptioner, seven: RegionRequest, regions: list[Region]
) -> None:
    batch = captioner.process(seven)
    union = np.logical_or.reduce([region.mask for region in regions[:5]])
    grid = choose_grid(SIZE[1], SIZE[0], 32, 4)
    (prompt,) = batch.prompts
    marked = batch.masks.unpack()[list(prompt.tiles)]
    assert torch.equal(marked, cut_masks(union[None], 32, grid).unpack()[0])
    everything = np.logical_or.reduce([region.mask for region in regions])
    assert not torch.equal(marked, cut_masks(everything[None], 32, grid).unpack()[0])
    assert len(batch.grids) == 5
    assert torch.equal(batch.boxes, torch.tensor([region_box(regions[6])] * 5))


def test_placeholders_beyond_the_names_keep_their_embeddings(
    captioner: GarCaptioner, seven: RegionRequest
) -> None:
    batch = captioner.process(seven)
    with torch.inference_mode():
        found = captioner.encode(batch).embeddings
    table = captioner.decoder.get_input_embeddings().weight
    ids = torch.tensor(batch.prompts[0].input_ids)
    for k in range(7):
        token = captioner.tokenizer.token_id(f"<|reserved_special_token_{k + 2}|>")
        rows = found[ids == token]
        own = table[token].expand_as(rows)
        assert torch.equal(rows, own) == (k >= 5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_up_to_five_regions_differ_in_boxes_only(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region], count: int
) -> None:
    question = " ".join(f"<Prompt{k}>" for k in range(count))
    request = RegionRequest(image, tuple(regions[:count]), question, joint=True)
    released = captioner.process(request)
    trained = tiny_gar.captioner(large=False).process(request)
    assert released.prompts == trained.prompts
    assert released.looks == trained.looks
    assert torch.equal(released.masks.words, trained.masks.words)
    assert released.grids == trained.grids
    assert torch.equal(released.boxes, trained.boxes[-1].expand(count, -1))


def test_what_is_refused(captioner: GarCaptioner, image: np.ndarray, regions: list[Region]) -> None:
    """By default more regions than names; as published, more than there are placeholders for."""
    assert isinstance(captioner.ask(image, regions, QUESTION, **NEW), str)
    with pytest.raises(TooManyRegionsError, match="at most 5 regions together, got 7"):
        tiny_gar.captioner(large=False).ask(image, regions, QUESTION)
    question = " ".join(f"<Prompt{k}>" for k in range(17))
    with pytest.raises(TooManyRegionsError, match="at most 16 regions together, got 17"):
        captioner.ask(image, [regions[0]] * 17, question)
    with pytest.raises(ValueError, match="question: must name each of the 7 regions"):
        captioner.ask(image, regions, QUESTION.replace("<Prompt5>", "that"))


def test_answers_keep_the_names_of_regions(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """``<Prompt1> is beside <Prompt0>.`` is an answer of the published models; the end is none."""
    said = "<Prompt1> is beside <Prompt0>.<|reserved_special_token_9|><|eot_id|>"

    def says(*arguments: Any, tokenizer: Any, **options: Any) -> Any:
        ids = captioner.tokenizer.encode(said)
        found = generate_text(*arguments, tokenizer=tokenizer, **options)
        return [replace(one, text=tokenizer.decode(ids)) for one in found]

    monkeypatch.setattr(base, "generate_text", says)
    answer = captioner.ask(image, regions[:2], "How is <Prompt0> to <Prompt1>?", **NEW)
    assert answer == "<Prompt1> is beside <Prompt0>.<|reserved_special_token_9|>"
    # A description is read without special tokens, as published.
    assert captioner.describe(image, regions[0], **NEW) == "is beside ."
