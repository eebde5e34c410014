"""Verdicts on sentences about regions whose truth is written by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fastregion.evaluation.caption_facts import read_caption
from fastregion.evaluation.ground_truth import Neighbor, RegionTruth
from fastregion.evaluation.judge import STATEMENTS, Verdict, judge_caption


def words(*found: str) -> frozenset[str]:
    return frozenset(found)


# A small red round region with blue stripes at the left edge, inside a white square.
TRUTH = RegionTruth(
    colors=words("red"),
    color_shares={"red": 0.6, "blue": 0.4},
    patterns=words("striped"),
    shapes=words("round"),
    hole=False,
    sizes=words("small"),
    places=words("left"),
    backgrounds=words("white", "gray"),
    cut_edges=words("left"),
    neighbors=(
        Neighbor(
            relations=words("inside", "in front of", "overlapping"),
            colors=words("white", "gray"),
            shapes=words("square"),
        ),
        Neighbor(relations=words("overlapping"), colors=words("green"), shapes=None),
    ),
    centroid=(0.2, 0.5),
    area=0.02,
)


def judge(caption: str, truth: RegionTruth = TRUTH, **changes: Any) -> Verdict:
    return judge_caption(read_caption(caption), [replace(truth, **changes)], 0, complete=True)


RIGHT = "Small striped red and blue round region at the left, on a white background."


def test_a_right_caption() -> None:
    verdict = judge(RIGHT)
    assert verdict.right == dict.fromkeys(("color", "place", "size", "shape", "pattern"), True)
    assert verdict.wrong == ()


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a green region", "color"),
        ("a red and green region", "second color"),
        ("a red region with white stripes", "second color"),
        ("a dotted region", "pattern"),
        ("a region that is not striped", "pattern"),
        ("a plain red region", "pattern"),
        ("a square region", "shape"),
        ("a round square", "shape"),
        ("a round region with a hole", "hole"),
        ("a tiny region", "size"),
        ("at the top left", "place"),
        ("on a green background", "background"),
        ("on a white and green background", "background"),
        ("cut off by the right edge", "edge"),
        ("cut off by the left and top edges", "edge"),
        ("inside a red square region", "neighbor"),
        ("inside a white round region", "neighbor"),
        ("inside a green region", "neighbor"),
        ("the leftmost of three red round regions", "unique"),
    ],
)
def test_each_false_statement_alone(caption: str, wrong: str) -> None:
    assert judge(caption).wrong == (wrong,)


@pytest.mark.parametrize(
    "caption",
    [
        "a blue region",  # more than a quarter is blue: not the main colour, but not wrong
        "a red region with blue stripes",
        "a region that is not dotted",
        "without a hole",
        "on a gray background",
        "cut off by the left edge",
        "inside a white square region",
        "in front of a grey square",
        "overlapping a green region",
        "overlapping a green triangle",  # its shape is not known
        "touching a purple triangle",  # touching is not judged
        "the only red round region",
        "None of them.",
        "",
    ],
)
def test_what_is_not_false(caption: str) -> None:
    assert judge(caption).wrong == ()


def test_a_color_that_covers_a_quarter_is_no_main_color() -> None:
    assert judge("a blue region").right["color"] is False


def test_a_missing_fact_is_not_right_and_not_wrong() -> None:
    verdict = judge("a region")
    assert verdict.right == dict.fromkeys(("color", "place", "size", "shape", "pattern"), False)
    assert verdict.wrong == ()


@pytest.mark.parametrize(
    ("fact", "changes"),
    [
        ("color", {"colors": None}),
        ("place", {"places": None}),
        ("place", {"places": words("left", "top left")}),
        ("size", {"sizes": words("tiny", "small")}),
        ("shape", {"shapes": None}),
        ("pattern", {"patterns": None}),
    ],
)
def test_facts_too_close_to_call_are_not_scored(fact: str, changes: dict[str, Any]) -> None:
    verdict = judge(RIGHT, **changes)
    assert fact not in verdict.right
    assert len(verdict.right) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {
            "colors": None,
            "patterns": None,
            "shapes": None,
            "hole": None,
            "sizes": None,
            "places": None,
            "backgrounds": None,
            "cut_edges": None,
            "neighbors": None,
        }
    ],
)
def test_nothing_is_wrong_where_nothing_is_known(changes: dict[str, Any]) -> None:
    caption = (
        "Huge plain yellow and green triangular region with a hole at the bottom right, on a black "
        "background, cut off by the top edge, inside a pink oval region."
    )
    assert judge(caption, **changes).wrong == ()
    assert len(judge(caption).wrong) == len(STATEMENTS) - 1  # all but uniqueness


def test_near_a_threshold_only_the_words_beside_it_are_allowed() -> None:
    between = {"sizes": words("tiny", "small")}
    assert judge("a tiny region", **between).wrong == ()
    assert judge("a huge region", **between).wrong == ("size",)


def test_a_straight_bar_has_two_right_shapes() -> None:
    bar = {"shapes": words("elongated", "rectangular")}
    for caption in ("an elongated region", "a rectangle", "an elongated rectangular region"):
        verdict = judge(caption, **bar)
        assert verdict.right["shape"]
        assert verdict.wrong == ()
    assert judge("an elongated oval", **bar).wrong == ("shape",)


def group(*places: tuple[float, float, float]) -> list[RegionTruth]:
    """Red round regions at (x, y) of an area each."""
    return [replace(TRUTH, centroid=(x, y), area=area) for x, y, area in places]


THREE = group((0.2, 0.5, 0.02), (0.5, 0.1, 0.04), (0.8, 0.9, 0.01))
BLUE_SQUARE = replace(
    TRUTH,
    colors=words("blue"),
    color_shares={"blue": 1.0},
    shapes=words("square"),
    centroid=(0.1, 0.1),
)


@pytest.mark.parametrize(
    ("claim", "true_for"),
    [
        ("the leftmost of three red round regions", 0),
        ("the left one of the three", 0),
        ("the rightmost of three red circles", 2),
        ("the topmost red circle", 1),
        ("the bottommost of three", 2),
        ("the largest of three red round regions", 1),
        ("the smallest of the three red circles", 2),
    ],
)
def test_claims_of_uniqueness(claim: str, true_for: int) -> None:
    truths = [*THREE, BLUE_SQUARE]
    for index in range(3):
        said = read_caption(f"Small red round region, {claim}.")
        wrong = judge_caption(said, truths, index, complete=True).wrong
        assert ("unique" in wrong) is (index != true_for)


def test_a_wrong_count_is_a_false_claim() -> None:
    said = read_caption("the leftmost of two red circles")
    assert judge_caption(said, THREE, 0, complete=True).wrong == ("unique",)
    assert judge_caption(said, THREE[:2], 0, complete=True).wrong == ()


def test_a_look_alike_whose_shape_is_hidden_may_be_counted_or_not() -> None:
    truths = [*THREE[:2], replace(THREE[2], shapes=None)]
    for count in ("two", "three"):
        said = read_caption(f"the leftmost of {count} red circles")
        assert judge_caption(said, truths, 0, complete=True).wrong == ()
    said = read_caption("the leftmost of four red circles")
    assert judge_caption(said, truths, 0, complete=True).wrong == ("unique",)


def test_only_is_false_with_a_look_alike() -> None:
    said = read_caption("the only red circle")
    assert judge_caption(said, THREE, 0, complete=True).wrong == ("unique",)
    assert judge_caption(said, [THREE[0], BLUE_SQUARE], 0, complete=True).wrong == ()


def test_a_claim_about_a_group_that_the_region_is_not_in_is_false() -> None:
    said = read_caption("red round region, the leftmost of two blue squares")
    truths = [THREE[0], BLUE_SQUARE, BLUE_SQUARE]
    assert "unique" in judge_caption(said, truths, 0, complete=True).wrong


def test_uniqueness_is_not_judged_where_regions_are_missing() -> None:
    said = read_caption("the leftmost of nine red circles")
    assert judge_caption(said, THREE, 0, complete=False).wrong == ()
