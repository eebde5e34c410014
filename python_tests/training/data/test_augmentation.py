"""The wording of prompts, against the published draws, and JPEG recompression."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
from golden_cases import GoldenCase, golden_cases

from fastregion.training.data.augmentation import (
    class_name_prompt,
    dam_prompt,
    gar_prompt,
    python_random,
    recompress,
)

NEGATIVE_SHARE = 0.05


def published_prompts(captions: list[str], draws: random.Random) -> list[str]:
    """All prompts of a GAR sample, drawn in the published order."""
    ids = list(range(5))
    draws.shuffle(ids)
    prompts = [gar_prompt(captions[0], draws)]
    negative = False
    for caption in captions[1:4]:
        if not negative and draws.random() < NEGATIVE_SHARE:
            negative = True
            prompts.append(gar_prompt(caption, draws))
        prompts.append(gar_prompt(caption, draws))
    return prompts


@golden_cases("gar", "prompts")
def test_gar_prompts_are_drawn_as_published(case: GoldenCase) -> None:
    entries = [e for e in case.json("prompts.json")["training"] if e["kind"] == "caption"]
    assert entries
    for entry in entries:
        said = [turn["value"] for turn in entry["conversations"] if turn["from"] == "human"]
        # In front of a prompt: the introduction, the region's name and its block of tokens.
        expected = [re.sub(r".*(\*256|<Prompt\d>: )", "", text, flags=re.DOTALL) for text in said]
        draws = random.Random(entry["seed"])
        assert published_prompts(entry["captions"], draws) == expected
        other = random.Random(entry["seed"] + 1000)
        assert published_prompts(entry["captions"], other) != expected


LENGTH = re.compile(r"in (?:a|one|\d+|more|about|around)\b.*(?=[.?])")


def suffixes(caption: str, count: int = 4000) -> Counter[str]:
    """How often each length is asked for."""
    draws = random.Random(0)
    asked = (LENGTH.search(dam_prompt(caption, draws)) for _ in range(count))
    return Counter(found[0] if found else "detail" for found in asked)


def test_dam_prompts_have_the_papers_shares() -> None:
    found = suffixes("A red cup. It stands on a table.")
    assert set(found) == {"detail", "in 2 sentences", "in 8 words"}
    shares = {key: value / 4000 for key, value in found.items()}
    assert abs(shares["detail"] - 0.6) < 0.03
    assert abs(shares["in 2 sentences"] - 0.2) < 0.03
    assert set(suffixes("A red cup")) == {
        "detail",
        "in one sentence",
        "in a sentence",
        "in 3 words",
    }
    assert {"in about 80 words", "in around 80 words"} < set(suffixes("word " * 76))
    assert "in about 200 words" in suffixes("word " * 200)
    assert "in more than 200 words" in suffixes("word " * 201)


def test_prompts_depend_on_the_generator_alone() -> None:
    made = [dam_prompt("A cup.", python_random(np.random.default_rng(s))) for s in (1, 1, 2, 3, 4)]
    assert made[0] == made[1]
    assert len(set(made)) > 2


def test_class_names_are_told_half_of_the_time() -> None:
    draws = random.Random(0)
    told = [class_name_prompt("Describe it.", "cup", draws) for _ in range(2000)]
    assert set(told) == {"Describe it.", "Describe it. The masked region shows: cup."}
    assert abs(told.count("Describe it.") / 2000 - 0.5) < 0.04


def test_recompression_loses_a_little() -> None:
    y, x = np.mgrid[:64, :64]
    image = np.stack([x * 4, y * 4, 128 + 60 * np.sin(x / 5)], -1).astype(np.uint8)
    draws = random.Random(3)
    errors = []
    for _ in range(30):
        found = recompress(image, draws)
        assert found.shape == image.shape
        assert found.dtype == np.uint8
        errors.append(float(np.abs(found.astype(int) - image).mean()))
    assert len(set(errors)) > 5  # the quality varies
    assert 0 < min(errors) < max(errors) < 6
    first, again = recompress(image, random.Random(7)), recompress(image, random.Random(7))
    assert np.array_equal(first, again)
