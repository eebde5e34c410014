"""GAR's samples, batches and losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_gar
import torch

from fastregion import load
from fastregion.models.gar import GarCaptioner
from fastregion.models.gar.prompts import crop_token
from fastregion.regions import Region
from fastregion.training.data import BadRow, Record, Turn
from fastregion.training.systems.gar import GarTask, Options
from fastregion.training.systems.gar_dialogue import make_dialogue

SIZE = (50, 70)
BOXES = ((5, 5, 20, 30), (35, 15, 60, 45), (1, 1, 4, 4), (40, 2, 68, 12), (8, 33, 30, 48))


def record(count: int = 2, **fields: Any) -> Record:
    image = np.random.default_rng(count).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    regions = tuple(Region.from_box(box, SIZE) for box in BOXES[:count])
    captions = {"captions": tuple((f"thing {k}.",) for k in range(count))}
    return Record(
        id="row",
        image=lambda: image,
        regions=lambda: regions,
        num_regions=count,
        **(fields or captions),
    )


def turns(*texts: str) -> tuple[Turn, ...]:
    return tuple(
        Turn(speaker="gpt" if index % 2 else "human", text=text) for index, text in enumerate(texts)
    )


RELATION = record(2, turns=turns("<image>\nIs <Prompt1> left of <Prompt0>?", "No.", "Why?", "So."))
PICTURE = record(0, turns=turns("<image>\nWhat is it?", "A room."))


@pytest.fixture(scope="module")
def task() -> GarTask:
    return GarTask(tiny_gar.captioner())


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_captions(task: GarTask) -> None:
    sample = task.sample(record(3), rng())
    text = task.decoded(sample)
    assert text.count("[[") == 3 + text.count("is not in the image")
    for k in range(3):
        assert f"[[thing {k}.<|eot_id|>]]" in text
    assert text.count("<|begin_of_text|>") == 1
    assert text.startswith("<|begin_of_text|><|start_header_id|>system")
    assert text.count("<|image|>*80There are some objects I am curious about: <Prompt") == 1
    assert task.num_tokens(sample) == len(sample.prompts[0].input_ids)
    assert len(sample.boxes) == 3
    (prompt,) = sample.prompts
    config = task.captioner.config
    for token in prompt.regions:
        assert list(prompt.input_ids).count(token) == config.tokens_per_tile
        assert all(
            label == -100
            for label, id_ in zip(prompt.labels or (), prompt.input_ids, strict=True)
            if id_ == token
        )


def test_chance_comes_from_the_generator(task: GarTask) -> None:
    texts = [task.decoded(task.sample(record(3), rng(seed))) for seed in (1, 1, 2, 3, 4, 5)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 5
    several = record(1, captions=(("first", "second"),))
    assert len({task.decoded(task.sample(several, rng(k)))[-20:-12] for k in range(20)}) == 2


def test_absent_regions_are_asked_about(task: GarTask) -> None:
    """5 % of regions after the first, once a row, under a name that is not used."""
    found = 0
    for seed in range(400):
        dialogue = make_dialogue(record(5), rng(seed), crop_token, 5)
        said = [text for role, text in dialogue.turns if role == "assistant"]
        absent = [text for text in said if text.endswith(" is not in the image.")]
        assert len(absent) <= 1
        assert len(said) - len(absent) == 4  # at most four, so that a name is left
        assert absent[:1] != said[:1]
        for text in absent:
            name = int(text[7])
            assert name not in dialogue.regions
            assert (
                sum(question.startswith(f"<Prompt{name}>: ") for _, question in dialogue.turns) == 1
            )
        found += len(absent)
    assert 35 <= found <= 80  # 1 - 0.95 ** 3 = 14 %


def test_relations(task: GarTask) -> None:
    text = task.decoded(task.sample(RELATION, rng()))
    blocks = [f"{crop_token(k)}*16" for k in (1, 0)]
    shown = (
        "There are some objects I am curious about: <Prompt1>; <Prompt0>; \n"
        f"<Prompt1>: {blocks[0]}\n<Prompt0>: {blocks[1]}\n\nIs <Prompt1> left of <Prompt0>?"
    )
    assert shown in text
    assert "[[No.<|eot_id|>]]" in text
    assert "Why?<|eot_id|>" in text
    assert text.endswith("[[So.<|eot_id|>]]")


def test_pictures_without_regions(task: GarTask) -> None:
    sample = task.sample(PICTURE, rng())
    assert "<|image|>*80What is it?<|eot_id|>" in task.decoded(sample)
    assert sample.boxes.shape == (0, 4)
    assert sample.masks.unpack().all()  # all of it is marked


def test_batches_add_up() -> None:
    captioner = tiny_gar.captioner()  # the released replay moves less than a cell of so small a map
    captioner.model.config = replace(captioner.config, replay="aligned")
    task = GarTask(captioner)
    samples = [task.sample(row, rng(k)) for k, row in enumerate((record(4), RELATION, PICTURE))]
    whole = task.step(task.collate(samples).to("cpu"))
    parts = [task.step(task.collate([sample])) for sample in samples]
    assert whole.targets == sum(part.targets for part in parts)
    torch.testing.assert_close(
        whole.total, torch.stack([part.total for part in parts]).sum(), rtol=1e-6, atol=0
    )
    with torch.no_grad():  # as for validation
        torch.testing.assert_close(task.step(task.collate(samples)).total, whole.total.detach())
    # Each sample has its own picture, regions and boxes in the batch.
    other = task.step(task.collate([samples[0], task.sample(RELATION, rng(5)), samples[2]]))
    torch.testing.assert_close(other.total, whole.total, rtol=1e-6, atol=0)
    moved = replace(samples[0], boxes=samples[0].boxes.flip(0))
    assert abs(task.step(task.collate([moved, *samples[1:]])).total - whole.total) > 1e-4
    blank = replace(samples[1], tiles=torch.zeros_like(samples[1].tiles))
    assert abs(task.step(task.collate([samples[0], blank, samples[2]])).total - whole.total) > 1e-3


def test_overfits_one_batch() -> None:
    task = GarTask(tiny_gar.captioner())
    batch = task.collate([task.sample(record(2), rng(k)) for k in range(2)])
    optimizer = torch.optim.AdamW(task.captioner.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        total, targets, _ = task.step(batch)
        optimizer.zero_grad()
        (total / targets).backward()
        optimizer.step()
        losses.append(float(total.detach() / targets))
    assert losses[-1] < losses[0] / 2
    assert all(p.grad is not None for p in task.captioner.model.parameters())


def test_saved_and_loaded(task: GarTask, tmp_path: Path) -> None:
    task.save(tmp_path / "model")
    assert isinstance(load(tmp_path / "model"), GarCaptioner)
    assert not (tmp_path / "model" / "adapter").exists()


def test_options() -> None:
    captioner = tiny_gar.captioner()
    sample = GarTask(captioner, Options(max_tiles=1)).sample(record(1), rng())
    assert len(sample.tiles) == 2
    with pytest.raises(ValueError, match=r"options\.max_tiles: must be at least 1, got 0"):
        Options(max_tiles=0)


@pytest.mark.parametrize(
    ("row", "message", "kind"),
    [
        (record(2, captions=(("a",),)), "one for each of 2 regions, got 1", "no text"),
        (record(2, captions=(("a",), (" ",))), "got none for region 1", "no text"),
        (record(1, captions=((),)), "got none for region 0", "no text"),
        (record(1, captions=(("a <|eot_id|>",),)), "special token '<|eot_id|>'", "malformed row"),
        (record(0), "a question and an answer, got none", "no text"),
        (record(0, turns=turns("Who?")), "the last question has no answer", "no text"),
        (record(0, turns=turns("Who?", " ")), "expected text, got none at 1", "no text"),
        (record(0, turns=turns("Who?", "a <image>")), "in the first line, got it", "malformed row"),
        (record(0, turns=turns("A", "b")[::-1]), "expected 'human' at 0", "malformed row"),
        (record(1, turns=turns("<Prompt1>?", "b")), "there are 1 regions", "malformed row"),
    ],
)
def test_bad_rows(task: GarTask, row: Record, message: str, kind: str) -> None:
    with pytest.raises(BadRow) as caught:
        task.sample(row, rng())
    assert message in str(caught.value)
    assert caught.value.kind == kind


def test_bad_pictures(task: GarTask) -> None:
    small = replace(PICTURE, image=lambda: np.zeros((9, 40, 3), np.uint8))
    with pytest.raises(BadRow, match="at least 10 pixels a side, got 40 x 9"):
        task.sample(small, rng())
    other = replace(record(1), image=lambda: np.zeros((70, 50, 3), np.uint8))
    with pytest.raises(BadRow, match=r"expected shape \(70, 50\) to match the image") as caught:
        task.sample(other, rng())
    assert caught.value.kind == "size mismatch"
    many = replace(RELATION, num_regions=9, turns=turns("<Prompt5> and <Prompt0>?", "b"))
    with pytest.raises(BadRow, match="there are 5 names") as caught:
        task.sample(many, rng())
    assert caught.value.kind == "too many regions"
