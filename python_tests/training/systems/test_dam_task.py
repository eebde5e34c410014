"""DAM's samples, batches and losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_dam
import torch

from fastregion import load
from fastregion.models.dam import DamCaptioner
from fastregion.models.dam.processing import views
from fastregion.regions import Region
from fastregion.training.data import BadRow, Record, Turn
from fastregion.training.systems.dam import DamTask, Options

SIZE = (60, 90)
BOXES = ((5, 5, 20, 30), (35, 15, 60, 45), (1, 1, 4, 4), (40, 2, 68, 12), (8, 33, 30, 48))
PLAIN = Options(vary_prompts=False)


def record(count: int = 2, **fields: Any) -> Record:
    image = np.random.default_rng(count).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    regions = tuple(Region.from_box(box, SIZE) for box in BOXES[:count])
    captions = {"captions": tuple((f"thing {k}.",) for k in range(count))}
    return Record(
        id="row",
        image=lambda: image,
        regions=lambda: regions,
        num_regions=count,
        **(captions | fields),
    )


def turns(*texts: str) -> tuple[Turn, ...]:
    return tuple(
        Turn(speaker="gpt" if index % 2 else "human", text=text) for index, text in enumerate(texts)
    )


def dialogue(count: int, *texts: str) -> Record:
    return record(count, captions=(), turns=turns(*texts))


@pytest.fixture(scope="module")
def captioner() -> DamCaptioner:
    return tiny_dam.captioner()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_captions(captioner: DamCaptioner) -> None:
    task, row = DamTask(captioner, PLAIN), record(2)
    sample = task.sample(row, rng())
    lines = task.decoded(sample).split("\n")
    template = captioner.template
    asked = template.prompt("<image>\nDescribe the masked region in detail.")
    expected = "\n".join(f"<s>{asked}[[ thing {k}.</s>]]" for k in range(2))
    assert "\n".join(lines) == expected
    size = captioner.config.vision.image_size
    for found, region in zip(sample.views, row.regions(), strict=True):
        assert torch.equal(found, views(row.image(), region, size))
    per_image = captioner.config.tokens_per_image
    assert task.num_tokens(sample) == sum(len(p.input_ids) - 1 + per_image for p in sample.prompts)


def test_prompts_vary(captioner: DamCaptioner) -> None:
    task, seen = DamTask(captioner), set()
    for seed in range(30):
        seen.add(task.decoded(task.sample(record(1), rng(seed))).split("\n")[1])
    assert len(seen) > 10
    assert any("in 2 words" in text for text in seen)
    assert any("sentence" in text for text in seen)
    again = [task.decoded(task.sample(record(3), rng(4))) for _ in range(2)]
    assert again[0] == again[1]


def test_class_names(captioner: DamCaptioner) -> None:
    task = DamTask(captioner, Options(vary_prompts=False, class_names=True))
    named = record(1, class_names=("cup",))
    texts = [task.decoded(task.sample(named, rng(seed))) for seed in range(40)]
    assert 10 <= sum("cup" in text for text in texts) <= 30
    with pytest.raises(BadRow, match="class_names: expected one for each of 1 regions, got 0"):
        task.sample(record(1), rng())


def test_regions_of_a_crowded_row(captioner: DamCaptioner) -> None:
    task = DamTask(captioner, replace(PLAIN, regions_per_sample=2))
    seen = set()
    for seed in range(20):
        sample = task.sample(record(5), rng(seed))
        assert len(sample.prompts) == len(sample.views) == 2
        seen |= {k for k in range(5) if f"thing {k}" in task.decoded(sample)}
    assert seen == set(range(5))


def test_dialogues(captioner: DamCaptioner) -> None:
    task = DamTask(captioner)
    text = task.decoded(
        task.sample(dialogue(1, "What is <Prompt0>?", "A cup.", "Red?", "No."), rng())
    )
    answered = "[[ A cup.</s>]]USER: Red? ASSISTANT:[[ No.</s>]]"
    assert text.endswith(f"USER: <image>\nWhat is the masked region? ASSISTANT:{answered}")
    whole = task.sample(dialogue(0, "<image>\nWhat is it?", "A room."), rng())
    (views_,) = whole.views
    assert torch.equal(views_[:4], views_[4:])  # no region: all of the picture, twice
    assert (views_[3] == 255).all()
    assert task.decoded(whole).endswith("<image>\nWhat is it? ASSISTANT:[[ A room.</s>]]")
    answers = dialogue(2, "a", "first", "b", "second")  # as a row of captions has it
    assert "second</s>" in task.decoded(task.sample(answers, rng()))
    joint = DamTask(tiny_dam.captioner(image_video_joint=True), PLAIN)
    asked = "Image: <image>\nDescribe the masked region in detail. ASSISTANT:"
    assert asked in joint.decoded(joint.sample(record(1), rng()))


def test_batches_add_up(captioner: DamCaptioner) -> None:
    task = DamTask(captioner)
    rows = (record(3), dialogue(1, "What?", "A cup."), dialogue(0, "What?", "A room."))
    samples = [task.sample(row, rng(k)) for k, row in enumerate(rows)]
    whole = task.step(task.collate(samples).to("cpu"))
    parts = [task.step(task.collate([sample])) for sample in samples]
    assert whole.targets == sum(part.targets for part in parts)
    torch.testing.assert_close(
        whole.total, torch.stack([part.total for part in parts]).sum(), rtol=1e-6, atol=0
    )
    with torch.no_grad():
        torch.testing.assert_close(task.step(task.collate(samples)).total, whole.total.detach())
    blank = replace(samples[1], views=torch.zeros_like(samples[1].views))
    assert abs(task.step(task.collate([samples[0], blank, samples[2]])).total - whole.total) > 1e-3


def test_long_texts_are_cut(captioner: DamCaptioner) -> None:
    task = DamTask(captioner)
    sample = task.sample(dialogue(1, "What?", "word " * 3000), rng())
    assert task.num_tokens(sample) == captioner.config.llm["tokenizer_model_max_length"]
    assert not task.decoded(sample).endswith("</s>]]")
    with pytest.raises(BadRow, match="no answer is left within 2048 tokens"):
        task.sample(dialogue(1, "what " * 3000, "A cup."), rng())


def test_saved_and_loaded(captioner: DamCaptioner, tmp_path: Path) -> None:
    DamTask(captioner).save(tmp_path / "model")
    assert isinstance(load(tmp_path / "model"), DamCaptioner)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (record(2, captions=(("a",),)), "one for each of 2 regions, got 1"),
        (record(1, captions=(("a </s>",),)), "must not contain the special token '</s>'"),
        (record(0, captions=(("a",),)), "expected at least one region, got none"),
        (dialogue(0), "a question and an answer, got none"),
        (dialogue(2, "<Prompt0> and <Prompt1>?", "b"), "about one region at a time"),
        (
            replace(record(1), image=lambda: np.zeros((90, 60, 3), np.uint8)),
            "expected shape (90, 60) to match the image, got (60, 90)",
        ),
    ],
)
def test_bad_rows(captioner: DamCaptioner, row: Record, message: str) -> None:
    with pytest.raises(BadRow) as caught:
        DamTask(captioner).sample(row, rng())
    assert message in str(caught.value)


def test_options() -> None:
    with pytest.raises(ValueError, match=r"options\.regions_per_sample: must be at least 1, got 0"):
        Options(regions_per_sample=0)
