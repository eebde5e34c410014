from dataclasses import replace

import numpy as np
import pytest

from fastregion.scenes import Facts, SceneRegion, generate_scene
from fastregion.scenes.wording import (
    compare,
    counted_caption,
    detailed_caption,
    exchanges,
    position_of,
    short_caption,
)

FACTS = Facts(
    color="red",
    color_ok=("red",),
    second="white",
    second_ok=("white",),
    pattern="striped",
    shape="round",
    size="large",
    size_ok=("large",),
    place="top left",
    place_ok=("top left",),
    background="blue",
    background_ok=("blue",),
    edges=("left", "top"),
    edges_ok=("left", "top"),
    unique="larger of two red round regions",
)


def test_a_caption_states_everything_in_order() -> None:
    for seed in range(20):
        text = detailed_caption(FACTS, np.random.default_rng(seed))
        words = ["large", "red and white", "round", "top left", "blue", "left and top", "larger"]
        positions = [text.index(word) for word in words]
        assert positions == sorted(positions), text
        assert "striped" in text
        assert text[0] == "A"
        assert text.endswith(".")


def test_nothing_is_said_of_what_is_not_known() -> None:
    bare = replace(FACTS, shape=None, pattern=None, second=None, background=None, unique=None)
    bare = replace(bare, edges=())
    for seed in range(10):
        text = detailed_caption(bare, np.random.default_rng(seed))
        for word in ("round", "striped", "white", "background", "edge", "None", ","):
            assert word not in text
    assert short_caption(bare) == "large red region"


def test_counted_captions_count() -> None:
    for seed in range(60):
        prompt, answer = counted_caption(FACTS, np.random.default_rng(seed))
        asked = int(prompt.split()[-2])
        assert len(answer.split()) <= asked
        assert "red" in answer


def _region(box: tuple[int, int, int, int], **facts: object) -> SceneRegion:
    mask = np.zeros((100, 100), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return SceneRegion(mask=mask, facts=replace(FACTS, **facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ((5, 40, 25, 60), (60, 40, 80, 60), "to the left of"),
        ((60, 40, 80, 60), (5, 40, 25, 60), "to the right of"),
        ((40, 5, 60, 25), (40, 70, 60, 90), "above"),
        ((40, 70, 60, 90), (40, 5, 60, 25), "below"),
        ((10, 10, 50, 50), (30, 30, 90, 90), "overlapping"),
    ],
)
def test_positions(first: tuple[int, ...], second: tuple[int, ...], word: str) -> None:
    assert position_of(_region(first), _region(second)) == word  # type: ignore[arg-type]


def test_inside_and_around() -> None:
    inner, frame = _region((40, 40, 60, 60)), _region((20, 20, 80, 80))
    frame = replace(frame, mask=frame.mask & ~inner.mask)
    assert position_of(inner, frame) == "inside"
    assert position_of(frame, inner) == "around"


def test_comparisons_are_true() -> None:
    big = _region((0, 0, 50, 50), color="red", pattern="striped", shape="square")
    small = _region((70, 70, 90, 90), color="blue", pattern="plain", shape="round")
    answers = {}
    for seed in range(800):
        exchange = compare([big, small], np.random.default_rng(seed))
        if exchange is not None:
            answers[exchange.prompt] = exchange.answer
    assert answers["Which is larger, <Prompt0> or <Prompt1>?"] == "<Prompt0> is larger."
    assert answers["Which is larger, <Prompt1> or <Prompt0>?"] == "<Prompt0> is larger."
    same = "Do <Prompt0> and <Prompt1> have the same color?"
    assert answers[same] == "No, <Prompt0> is red and <Prompt1> is blue."
    assert answers["Which of them is striped?"] == "<Prompt0> is striped."
    assert answers["Which of them is dotted?"] == "None of them."
    assert answers["Which one is blue?"] == "<Prompt1> is blue."
    assert answers["Which of them is triangular?"] == "None of them."


def test_a_colour_that_is_fair_without_being_said_is_not_asked_for() -> None:
    """Where "orange" is fair for a red region, neither "None of them" nor its name is right."""
    red, blue = _region((0, 0, 50, 50), color="red"), _region((70, 70, 90, 90), color="blue")
    red = replace(red, facts=replace(red.facts, color_ok=("red", "orange")))
    blue = replace(blue, facts=replace(blue.facts, color_ok=("blue",)))
    prompts = set()
    for seed in range(4000):
        exchange = compare([red, blue], np.random.default_rng(seed))
        if exchange is not None:
            prompts.add(exchange.prompt)
    assert "Which of them is red?" in prompts
    assert "Which of them is green?" in prompts
    assert not any("orange?" in prompt for prompt in prompts)


def test_exchanges_of_real_scenes_are_worded() -> None:
    rng = np.random.default_rng(0)
    for seed in range(10):
        for region in generate_scene(seed).regions:
            texts = exchanges(region.facts, rng, extra=4)
            assert len(texts) == 5
            for prompt, answer in texts:
                assert prompt.strip()
                assert answer.strip()
                assert "None" not in answer
