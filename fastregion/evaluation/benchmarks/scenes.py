"""Rendered scenes and annotated photographs: what can be seen of a region without knowing its name.

Facts (colour, pattern, shape, size, place, surroundings) are read out of each caption by words and
compared with the ground truth of rendered scenes, whose seeds are never trained on, and of
annotated sample photographs. There is no judge, no data folder and nothing to download.

What was verified: the definitions are this package's own; the reader of captions, the truths and
the arithmetic are tested on captions written by hand and by the generator of the scenes.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from fastregion.evaluation.benchmarks.base import (
    Answered,
    Benchmark,
    Describer,
    Item,
    Picture,
    Prediction,
    Query,
    Scores,
)
from fastregion.evaluation.examples import PictureStore, Task, scene_tasks
from fastregion.evaluation.photos import photo_tasks
from fastregion.evaluation.scene_measures import (
    BALANCED,
    LOWER_IS_BETTER,
    MEASURES,
    PATTERN,
    UNIQUE,
    measure_caption,
)
from fastregion.regions import Region

__all__ = ["Scenes"]

_MAX_NEW_TOKENS = 96  # several times the longest right caption


@dataclass(frozen=True, kw_only=True)
class Scenes(Benchmark):
    """Captions against what is true of rendered regions.

    Attributes:
        scenes: number of rendered scenes.
        first_seed: seed of the first scene; the seeds must lie in 0..9,999.
        lookalikes: how many objects of one shape and colour each scene has; None for scenes of all
            kinds.
        photos: JSON file of annotated photographs (:mod:`fastregion.evaluation.photos`), or None.

    Raises:
        ValueError: no picture is asked for, a seed is not an evaluation seed, or the file of
            photographs is malformed.
        FileNotFoundError: it does not exist.
        ImportError: a package that carries the photographs is not installed.
    """

    name: ClassVar[str] = "scenes"
    summary: ClassVar[str] = "rendered scenes, judged by words against the truth; offline"
    version: ClassVar[int] = 1
    needs_data: ClassVar[bool] = False

    scenes: int = 500
    first_seed: int = 0
    lookalikes: int | None = None
    photos: Path | None = None

    def __post_init__(self) -> None:
        if not self._tasks:
            raise ValueError("scenes: expected at least one scene or photograph, got none")

    @functools.cached_property
    def _tasks(self) -> Mapping[str, Task]:
        tasks = scene_tasks(self.scenes, self.first_seed, self.lookalikes)
        if self.photos is not None:
            tasks += photo_tasks(self.photos)
        return {task.name: task for task in tasks}

    @functools.cached_property
    def _pictures(self) -> PictureStore:
        return PictureStore()

    def items(self, data: Path) -> Iterator[Item]:
        """One a region, with the truths of its picture."""
        return (item for task in self._tasks.values() for item in _items(task, self._pictures))

    def query(self, item: Item, model_type: str) -> Query:
        """The captioner's own description."""
        return Query(options={"max_new_tokens": _MAX_NEW_TOKENS})

    def picture(self, item: Item, data: Path) -> Picture:
        """Rendered, or the photograph."""
        assert item.image is not None, "items of scenes bear their picture's name"
        return self._pictures.picture(self._tasks[item.image])

    def predict(
        self, describer: Describer, picture: Picture, items: Sequence[Item], query: Query
    ) -> Sequence[Answered]:
        """Also keep the log-probability of each caption for every region of its picture.

        A model behind an endpoint has none.
        """
        answers = super().predict(describer, picture, items, query)
        score = getattr(describer, "score", None)
        if score is None:
            return answers
        regions = items[0].row["regions"]
        texts = [answer.text for answer in answers if answer.text.strip()]
        if len(regions) < 2 or not texts:
            return [replace(answer, extra={"log_probs": None}) for answer in answers]
        pairs = [(region, text) for text in texts for region in regions]
        scores = score(
            picture, [region for region, _ in pairs], [text for _, text in pairs], query.prompt
        )
        rows = iter(np.reshape(scores, (len(texts), len(regions))).tolist())
        return [
            replace(answer, extra={"log_probs": next(rows) if answer.text.strip() else None})
            for answer in answers
        ]

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """Shares in 0..1, for each group of pictures; see :mod:`..scene_measures`."""
        measured: dict[str, dict[str, bool]] = {}
        right_by_pattern: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for item in items:
            if item.id not in predictions:
                continue
            prediction, row = predictions[item.id], item.row
            found = measure_caption(
                prediction.text,
                row["truths"],
                row["index"],
                complete=row["complete"],
                lookalike=row["lookalike"],
                scored="log_probs" in prediction.extra,
                log_probs=prediction.extra.get("log_probs"),
            )
            patterns = row["truths"][row["index"]].patterns
            if PATTERN in found and patterns is not None and len(patterns) == 1:
                right_by_pattern[item.group][min(patterns)].append(found[PATTERN])
            measured[item.id] = {f"{item.group}: {name}": ok for name, ok in found.items()}
        table: dict[str, float] = {}
        counts: dict[str, int] = {}
        for group in dict.fromkeys(item.group for item in items):
            for measure in MEASURES:
                name = f"{group}: {measure}"
                shares = [float(found[name]) for found in measured.values() if name in found]
                counts[name] = len(shares)
                if measure == BALANCED:
                    shares = [sum(ok) / len(ok) for ok in right_by_pattern[group].values()]
                    counts[name] = counts[f"{group}: {PATTERN}"]  # comes before it
                if shares:
                    table[name] = sum(shares) / len(shares)
        return Scores(
            table=table,
            items=measured,
            counts={name: counts[name] for name in table},
            lower_is_better=frozenset(
                name for name in table if name.split(": ", 1)[1] in LOWER_IS_BETTER
            ),
            failures=_failures(measured),
        )


def _failures(measured: Mapping[str, Mapping[str, bool]]) -> tuple[str, ...]:
    """Items by how much is wrong with them, those with nothing wrong left out."""

    def faults(found: Mapping[str, bool]) -> int:
        by_measure = {name.split(": ", 1)[1]: ok for name, ok in found.items()}
        return sum(
            ok == (measure in LOWER_IS_BETTER)
            for measure, ok in by_measure.items()
            if measure != UNIQUE
        )

    wrong = {name: faults(found) for name, found in measured.items() if faults(found)}
    return tuple(sorted(wrong, key=lambda name: -wrong[name]))


def _items(task: Task, pictures: PictureStore) -> list[Item]:
    example = task.make()
    pictures.keep(task, example.image)
    regions = tuple(Region.from_mask(mask) for mask in example.masks)
    return [
        Item(
            id=f"{task.name}, region {index}",
            image=task.name,
            masks=(region,),
            group=task.group,
            row={
                "regions": regions,
                "truths": tuple(example.truths),
                "index": index,
                "complete": example.complete,
                "lookalike": example.lookalike,
            },
        )
        for index, region in enumerate(regions)
    ]
