"""The table of scenes, recomputed by hand on a few captions."""

from __future__ import annotations

import pytest

from fastregion.evaluation.benchmarks.base import Item, Prediction, Scores
from fastregion.evaluation.benchmarks.scenes import Scenes
from fastregion.evaluation.ground_truth import RegionTruth


def truth(color: str, pattern: str | None, size: str = "small", place: str = "left") -> RegionTruth:
    return RegionTruth(
        colors=frozenset((color,)),
        color_shares={color: 1.0},
        patterns=None if pattern is None else frozenset((pattern,)),
        shapes=frozenset(("round",)),
        sizes=frozenset((size,)),
        places=frozenset((place,)),
        centroid=(0.5, 0.5),
        area=0.1,
    )


PICTURES: list[
    tuple[str, tuple[str, ...], tuple[RegionTruth, ...], tuple[list[float] | None, ...]]
] = [
    (
        "scene 0",
        (
            "Small plain red round region at the left.",  # all right
            "Small plain blue square region at the left.",  # shape wrong, pattern wrong
            "A blue region.",  # colour wrong; the rest is missing
        ),
        (truth("red", "plain"), truth("blue", "striped"), truth("red", None)),
        ([-1.0, -2.0, -3.0], [-1.5, -1.0, -0.5], [-1.0, -1.0, -1.0]),
    ),
    (
        "look-alike scene 1",
        ("Small plain red round region at the left.", ""),
        (truth("red", "plain"), truth("red", "dotted")),
        ([-1.0, -2.0], None),
    ),
    (
        "photo a b",
        ("Large plain red round region at the left.",),
        (truth("red", "plain"),),
        (None,),
    ),
]


@pytest.fixture(scope="module")
def scores() -> Scores:
    items, predictions = [], {}
    for name, texts, truths, log_probs in PICTURES:
        for index, text in enumerate(texts):
            row = {"truths": truths, "index": index, "complete": True,
                   "lookalike": name.startswith("look-alike")}  # fmt: skip
            group = "photos" if name.startswith("photo") else "scenes"
            items.append(Item(id=f"{name} {index}", group=group, row=row))
            predictions[items[-1].id] = Prediction(
                item=items[-1].id, text=text, extra={"log_probs": log_probs[index]}
            )
    return Scenes(scenes=1).score(items, predictions, {})


# (value, number of captions scored), counted by hand from RECORDS
SCENES = {
    "main colour": (3 / 5, 5),  # right: 0.0, 0.1, 1.0
    "place": (3 / 5, 5),
    "size": (3 / 5, 5),
    "shape": (2 / 5, 5),
    "pattern": (2 / 4, 4),  # the pattern of 0.2 is not known
    "pattern, balanced": ((2 / 2 + 0 / 1 + 0 / 1) / 3, 4),  # plain, striped, dotted
    "self-retrieval": (2 / 5, 5),  # 0.0 and 1.0; a tie is no retrieval, nor is an empty caption
    "self-retrieval, look-alikes": (1 / 2, 2),
    "true of its region alone": (1 / 5, 5),  # 1.0; what 0.0 says is true of 0.2 too
    "any wrong statement": (2 / 5, 5),
    "wrong color": (1 / 5, 5),
    "wrong pattern": (1 / 5, 5),
    "wrong shape": (1 / 5, 5),
    "wrong size": (0.0, 5),
    "wrong place": (0.0, 5),
}
PHOTOS = {
    "main colour": (1.0, 1),
    "size": (0.0, 1),
    "self-retrieval": (None, 0),  # a single region
    "any wrong statement": (1.0, 1),
    "wrong size": (1.0, 1),
}


@pytest.mark.parametrize(("group", "expected"), [("scenes", SCENES), ("photos", PHOTOS)])
def test_numbers_are_those_counted_by_hand(
    scores: Scores, group: str, expected: dict[str, tuple[float | None, int]]
) -> None:
    for measure, (value, count) in expected.items():
        name = f"{group}: {measure}"
        if value is None:
            assert name not in scores.table
        else:
            assert scores.table[name] == pytest.approx(value), name
            assert scores.counts[name] == count, name


def test_wrong_statements_are_the_only_measures_where_lower_is_better(scores: Scores) -> None:
    assert scores.lower_is_better == {name for name in scores.table if "wrong" in name}


def test_every_entry_but_the_balanced_one_is_the_mean_of_its_items(scores: Scores) -> None:
    for name, value in scores.table.items():
        of_items = [numbers[name] for numbers in scores.items.values() if name in numbers]
        if "balanced" in name:
            assert of_items == []
        else:
            assert value == sum(of_items) / len(of_items), name


def test_the_worst_captions_come_first(scores: Scores) -> None:
    # eight faults: wrong in colour, three facts and the retrieval missing; seven: nothing is said
    assert scores.failures[:2] == ("scene 0 2", "look-alike scene 1 1")
    assert not {"scene 0 0", "look-alike scene 1 0"} & set(scores.failures)
