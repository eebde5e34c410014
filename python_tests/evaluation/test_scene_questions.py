"""Questions about scenes: drawn only where the answer is clear, and judged by words."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from fastregion.evaluation.examples import Example, scene_tasks
from fastregion.evaluation.ground_truth import RegionTruth
from fastregion.evaluation.scene_questions import (
    KINDS,
    NEGATIVE_KINDS,
    RELATION_KINDS,
    SINGLE_KINDS,
    SceneQuestion,
    judge_answer,
    make_questions,
)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [task.make() for task in scene_tasks(12, 0)]


def _question(kind: str, right: tuple[str, ...] = (), regions: tuple[int, ...] = (0, 1)):  # type: ignore[no-untyped-def]
    return SceneQuestion(kind=kind, regions=regions, prompt="?", right=right)


_ONE = (
    RegionTruth(
        colors=frozenset(("red",)),
        color_shares={"red": 1.0},
        patterns=frozenset(("plain",)),
        sizes=frozenset(("small",)),
        places=frozenset(("top",)),
        centroid=(0.5, 0.1),
        area=0.02,
    ),
)


def test_every_kind_is_asked_and_the_same_seed_asks_the_same(examples: list[Example]) -> None:
    kinds: Counter[str] = Counter()
    for seed, example in enumerate(examples):
        questions = make_questions(example.masks, example.truths, seed)
        assert questions == make_questions(example.masks, example.truths, seed)
        kinds.update(question.kind for question in questions)
        for question in questions:
            names = [f"<Prompt{k}>" for k in range(len(question.regions))]
            assert len(set(question.regions)) == len(question.regions)
            said = [word for word in question.prompt.split() if "Prompt" in word]
            assert all(word.strip("?,") in names for word in said)
    assert set(kinds) == set(KINDS)
    assert {*SINGLE_KINDS, *RELATION_KINDS, *NEGATIVE_KINDS, "short", "counted"} == set(KINDS)


def test_no_question_on_a_border(examples: list[Example]) -> None:
    example = examples[0]
    vague = [
        replace(
            truth,
            colors=None,
            shapes=None,
            patterns=None,
            sizes=frozenset(("small", "tiny")),
            places=frozenset(("top", "center")),
            area=0.01,
        )
        for truth in example.truths
    ]
    kinds = {question.kind for question in make_questions(example.masks, vague, 0)}
    assert kinds <= {"short", "counted", "position"}


def test_what_is_right_holds(examples: list[Example]) -> None:
    """The answers are checked against pixels and facts, not against the code that drew them."""
    for seed, example in enumerate(examples):
        for question in make_questions(example.masks, example.truths, seed):
            areas = [int(example.masks[k].sum()) for k in question.regions]
            truths = [example.truths[k] for k in question.regions]
            if question.kind == "larger":
                assert question.right == (f"<Prompt{int(np.argmax(areas))}>",)
                assert max(areas) >= 1.25 * min(areas)
            elif question.kind == "same color":
                both = truths[0].colors == truths[1].colors
                assert question.right == ("yes" if both else "no",)
            elif question.kind in ("which", "none"):
                asked = question.prompt.split()[-1].strip("?")
                having = tuple(
                    f"<Prompt{k}>"
                    for k, truth in enumerate(truths)
                    if asked
                    in {*(truth.patterns or ()), *(truth.colors or ()), *(truth.shapes or ())}
                )
                assert question.right == having
                assert bool(having) is (question.kind == "which")


@pytest.mark.parametrize(
    ("kind", "right", "answer", "expected"),
    [
        ("larger", ("<Prompt1>",), "<Prompt1> is larger.", True),
        ("larger", ("<Prompt1>",), "<Prompt0> is larger than <Prompt1>.", False),
        ("larger", ("<Prompt1>",), "It is larger.", False),
        ("position", ("above", "left of"), "<Prompt0> is above <Prompt1>.", True),
        ("position", ("above", "left of"), "<Prompt0> is above and right of it.", False),
        ("position", ("above",), "I cannot tell.", False),
        ("same color", ("no",), "No, <Prompt0> is red and <Prompt1> is blue.", True),
        ("same color", ("no",), "Yes, both are red.", False),
        ("same shape", ("yes",), "They are both round.", False),
        ("which", ("<Prompt0>", "<Prompt2>"), "<Prompt0> and <Prompt2> are striped.", True),
        ("which", ("<Prompt0>", "<Prompt2>"), "<Prompt0> is striped.", False),
        ("which", ("<Prompt0>",), "None of them.", False),
        ("none", (), "None of them.", True),
        ("none", (), "<Prompt0> is striped.", False),
        ("none", (), "", False),
    ],
)
def test_answers_about_several_regions(
    kind: str, right: tuple[str, ...], answer: str, expected: bool
) -> None:
    assert judge_answer(_question(kind, right), answer, _ONE) is expected


@pytest.mark.parametrize(
    ("kind", "words", "answer", "expected"),
    [
        ("color", None, "It is red.", True),
        ("color", None, "It is blue.", False),
        ("color", None, "It is red and blue.", False),  # a wrong second colour
        ("place", None, "At the top of the image.", True),
        ("place", None, "It is red.", False),  # no answer
        ("pattern", None, "It is striped.", False),
        ("size", None, "It is small.", True),
        ("short", None, "small plain red region", True),
        ("short", None, "", False),
        ("short", None, "a small red region at the very top of this picture", False),
        ("counted", 6, "small plain red region", True),
        ("counted", 7, "small plain red region", False),
    ],
)
def test_answers_about_one_region(
    kind: str, words: int | None, answer: str, expected: bool
) -> None:
    question = replace(_question(kind, regions=(0,)), words=words)
    assert judge_answer(question, answer, _ONE) is expected
