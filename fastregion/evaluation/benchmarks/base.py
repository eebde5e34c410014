"""What a benchmark is: items, what a model is asked, what a judge is asked, and arithmetic.

Three steps with files between them, none of which needs the one before it once its file is there:

    items + captioner -> predictions;  items + predictions + judge -> answers
    items + predictions + answers -> scores
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["Benchmark", "Item", "JudgeCall", "Prediction", "Query", "Scores"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that is asked: a region, several, or a question about them.

    Attributes:
        id: unique in the benchmark.
        image: the picture's file, relative to the data folder; None for a video or a scene.
        frames: a video's frames, likewise.
        masks: what ``regions.as_regions`` takes: RLE dictionaries, boxes, polygons; one a region
            (of a video, one a region and frame).
        group: what it is reported under, such as a question's type.
        row: the benchmark's own fields.
    """

    id: str
    image: str | None = None
    frames: tuple[str, ...] = ()
    masks: tuple[Any, ...] = ()
    group: str = "all"
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a captioner is asked about an item.

    Attributes:
        prompt: None for the captioner's own description prompt.
        joint: whether all regions are asked about at once (``ask``), not one by one.
        options: further arguments of ``describe`` or ``ask``.
    """

    prompt: str | None = None
    joint: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model said about an item; a row of the predictions' file.

    Attributes:
        item: the item's id.
        text: what the model said.
        model: its id.
        prompt: what it was asked; None for its own description prompt.
        seed: of its sampling.
        extra: what else the benchmark keeps, JSON-able (log-probabilities, boxes).
    """

    item: str
    text: str
    model: str = ""
    prompt: str | None = None
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JudgeCall:
    """One request to a judge.

    Attributes:
        item: the item's id.
        key: names the call within the item, such as ``"recognition"`` or ``"3"``.
        messages: as in the OpenAI chat-completions API; pictures as data URLs.
        options: of the request, such as ``temperature`` and ``max_tokens``.
        attempts: how often a judge is asked until its answer can be read.
    """

    item: str
    key: str
    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the arithmetic gives.

    Attributes:
        table: named numbers in the order of the report, unrounded, in the units of the benchmark.
        items: for each item its own numbers and how its judge answers were read, JSON-able.
        notes: what a reader must know: missing predictions, unreadable answers, contradictions.
    """

    table: Mapping[str, float]
    items: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Benchmark(ABC):
    """A benchmark; one small file each in this folder.

    Attributes:
        name: what ``fastregion eval`` calls it.
        version: raised whenever the same predictions and answers may get other numbers.
        judged: whether a judge is needed.
        template: name of the file of the judge's wording in ``judge_templates/``; None without one.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    judged: ClassVar[bool] = False
    template: ClassVar[str | None] = None

    @abstractmethod
    def items(self, data: Path) -> Sequence[Item]:
        """Read the published annotation files below a folder, checked, in their order.

        Raises:
            FileNotFoundError, ValueError: the message names file, row and field.
        """

    @abstractmethod
    def query(self, item: Item, model_type: str) -> Query:
        """What a captioner of a type (``"gar"``, ``"dam"``, ...) is asked."""

    def judge_calls(
        self, item: Item, prediction: Prediction, wording: str, data: Path
    ) -> Sequence[JudgeCall]:
        """What a judge is asked about a prediction.

        Args:
            item: what was asked.
            prediction: what the model said.
            wording: text of the template file.
            data: the data folder, for pictures that the judge sees.
        """
        return ()

    def readable(self, item: Item, key: str, answer: str) -> bool:
        """Whether a judge's answer can be read; if not it is asked again, up to ``attempts``."""
        return True

    @abstractmethod
    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """Pure arithmetic.

        Args:
            items: what was asked.
            predictions: by item id.
            answers: judge answers by (item id, key); where a judge was asked repeatedly for a
                spread, one repeat.
        """

    def recorded(
        self, data: Path, record: Path
    ) -> tuple[Sequence[Prediction], Mapping[tuple[str, str], str]]:
        """Read published files of predictions and judge answers as ours.

        Raises:
            NotImplementedError: nothing is published in a format of its own.
            ValueError: the file is no such record.
        """
        raise NotImplementedError(f"{self.name}: has no published format of predictions")
