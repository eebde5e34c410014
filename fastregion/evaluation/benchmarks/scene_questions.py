"""Questions about regions of rendered scenes, answered rightly or not; offline.

What is asked, and when an answer is right, is said in :mod:`fastregion.evaluation.scene_questions`:
single facts, descriptions of a given length, comparisons of regions, and questions whose answer is
"None of them". There is no judge, no data folder and nothing to download.

What was verified: the definitions are this package's own; questions are checked against pixels and
masks, and the judging by words on answers written by hand.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastregion.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    Picture,
    Prediction,
    Query,
    Scores,
)
from fastregion.evaluation.examples import PictureStore, Task, scene_tasks
from fastregion.evaluation.scene_questions import (
    KINDS,
    NEGATIVE_KINDS,
    RELATION_KINDS,
    SINGLE_KINDS,
    judge_answer,
    make_questions,
)
from fastregion.regions import Region

__all__ = ["SceneQuestions"]

_MAX_NEW_TOKENS = 96  # several times the longest right answer
_GROUPS = {
    "single questions": SINGLE_KINDS,
    "relations": RELATION_KINDS,
    "negatives": NEGATIVE_KINDS,
}


@dataclass(frozen=True, kw_only=True)
class SceneQuestions(Benchmark):
    """Answers to questions whose truth is known.

    Attributes:
        scenes: number of rendered scenes, each of which is asked up to thirteen questions.
        first_seed: seed of the first scene; the seeds must lie in 0..9,999.

    Raises:
        ValueError: no scene is asked for, or a seed is not an evaluation seed.
    """

    name: ClassVar[str] = "scene-questions"
    summary: ClassVar[str] = "questions about one region or several of rendered scenes; offline"
    version: ClassVar[int] = 1
    needs_data: ClassVar[bool] = False

    scenes: int = 200
    first_seed: int = 0

    def __post_init__(self) -> None:
        if not self._tasks:
            raise ValueError("scenes: expected at least one scene, got none")

    @functools.cached_property
    def _tasks(self) -> Mapping[str, Task]:
        return {task.name: task for task in scene_tasks(self.scenes, self.first_seed)}

    @functools.cached_property
    def _pictures(self) -> PictureStore:
        return PictureStore()

    def items(self, data: Path) -> Iterator[Item]:
        """One a question, in the group of its kind."""
        seeds = range(self.first_seed, self.first_seed + self.scenes)
        return (
            item
            for seed, task in zip(seeds, self._tasks.values(), strict=True)
            for item in _items(task, seed, self._pictures)
        )

    def query(self, item: Item, model_type: str) -> Query:
        """The question, about all its regions at once."""
        return Query(
            prompt=item.row["question"].prompt,
            joint=len(item.masks) > 1,
            options={"max_new_tokens": _MAX_NEW_TOKENS},
        )

    def picture(self, item: Item, data: Path) -> Picture:
        """Rendered."""
        assert item.image is not None, "items of scenes bear their picture's name"
        return self._pictures.picture(self._tasks[item.image])

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """Shares of right answers in 0..1: of the groups of kinds, and of each kind."""
        measured: dict[str, dict[str, bool]] = {}
        for item in items:
            if item.id not in predictions:
                continue
            right = judge_answer(
                item.row["question"], predictions[item.id].text, item.row["truths"]
            )
            names = [name for name, kinds in _GROUPS.items() if item.group in kinds]
            measured[item.id] = dict.fromkeys([*names, item.group], right)
        table, counts = {}, {}
        for name in (*_GROUPS, *KINDS):
            shares = [found[name] for found in measured.values() if name in found]
            if shares:
                table[name], counts[name] = sum(shares) / len(shares), len(shares)
        wrong = tuple(name for name, found in measured.items() if not all(found.values()))
        return Scores(table=table, items=measured, counts=counts, failures=wrong)


def _items(task: Task, seed: int, pictures: PictureStore) -> list[Item]:
    example = task.make()
    pictures.keep(task, example.image)
    regions = [Region.from_mask(mask) for mask in example.masks]
    return [
        Item(
            id=f"{task.name}, {question.kind}",
            image=task.name,
            masks=tuple(regions[k] for k in question.regions),
            group=question.kind,
            row={"question": question, "truths": tuple(example.truths)},
        )
        for question in make_questions(example.masks, example.truths, seed)
    ]
