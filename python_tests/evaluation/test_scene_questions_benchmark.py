"""The benchmark of questions about scenes, answered by a model that always says the same."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from fastregion.evaluation.benchmarks.base import Prediction, Scores
from fastregion.evaluation.benchmarks.registry import find_benchmark
from fastregion.evaluation.benchmarks.scene_questions import SceneQuestions
from fastregion.evaluation.run import evaluate
from fastregion.evaluation.scene_questions import NEGATIVE_KINDS, RELATION_KINDS, SINGLE_KINDS

DATA = Path()


class Parrot:
    """Says one sentence to several regions and one to each single region."""

    model_id = "parrot"
    model_type = "parrot"

    def describe(self, image: Any, regions: Any, prompt: str, **options: Any) -> list[str]:
        return ["It is plain."] * len(regions)

    def ask(self, image: Any, regions: Any, question: str, **options: Any) -> str:
        assert len(regions) > 1
        assert "<Prompt0>" in question or "Which of them" in question
        return "None of them."


@pytest.fixture(scope="module")
def asked() -> SceneQuestions:
    assert find_benchmark("scene-questions") is SceneQuestions
    return SceneQuestions(scenes=5)


@pytest.fixture(scope="module")
def scores(asked: SceneQuestions) -> Scores:
    items = list(asked.items(DATA))
    assert len({item.id for item in items}) == len(items)
    predictions = {}
    for _, group in groupby(items, key=lambda item: (item.image, item.row["question"].prompt)):
        same = list(group)
        query = asked.query(same[0], "parrot")
        answers = asked.predict(Parrot(), asked.picture(same[0], DATA), same, query)
        for item, answer in zip(same, answers, strict=True):
            predictions[item.id] = Prediction(item=item.id, text=answer.text)
    return asked.score(items, predictions, {})


def test_what_the_parrot_gets_right(scores: Scores) -> None:
    assert scores.table["negatives"] == scores.table["none"] == 1.0
    assert scores.table["relations"] == scores.table["larger"] == 0.0
    assert scores.table["color"] == 0.0
    assert 0 < scores.table["pattern"] < 1


def test_groups_are_means_over_their_questions(scores: Scores) -> None:
    for group, kinds in (
        ("single questions", SINGLE_KINDS),
        ("relations", RELATION_KINDS),
        ("negatives", NEGATIVE_KINDS),
    ):
        counted = {kind: scores.counts[kind] for kind in kinds if kind in scores.counts}
        assert scores.counts[group] == sum(counted.values()) > 0
        right = sum(scores.table[kind] * number for kind, number in counted.items())
        assert scores.table[group] == pytest.approx(right / scores.counts[group])
    wrong = {name for name, found in scores.items.items() if not all(found.values())}
    assert set(scores.failures) == wrong


def test_questions_are_scored_by_the_runner(tmp_path: Path) -> None:
    result = evaluate(SceneQuestions(scenes=2), Parrot(), output=tmp_path / "run")
    assert (tmp_path / "run" / "scores.json").is_file()
    assert result is not None


def test_no_scene_is_no_benchmark() -> None:
    with pytest.raises(ValueError, match="expected at least one scene"):
        SceneQuestions(scenes=0)
