"""What a benchmark is: items, what a model is asked, what a judge is asked, and arithmetic.

Three steps with files between them, none of which needs the one before it once its file is there:

    items + captioner -> predictions;  items + predictions + judge -> answers
    items + predictions + answers -> scores
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

from fastregion.images import ImageSource

__all__ = [
    "Answered",
    "Benchmark",
    "Describer",
    "Item",
    "JudgeCall",
    "Picture",
    "Prediction",
    "Query",
    "Scores",
]

Picture: TypeAlias = "ImageSource | Sequence[ImageSource]"
"""What ``describe`` takes: a picture, or the frames of a video."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that is asked: a region, several, or a question about them.

    Attributes:
        id: unique in the benchmark.
        image: the picture's file, relative to the data folder; the name of a picture that is
            rendered; None for a video.
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
        switches: attributes that the captioner has while it is asked, JSON-able, such as GAR's
            ``boxes``; a prediction keeps them as ``extra["switches"]`` where there are any.
    """

    prompt: str | None = None
    joint: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    switches: Mapping[str, Any] = field(default_factory=dict)

    def switched(self, describer: Describer) -> Describer:
        """The captioner with these switches; it and its weights stay as they are."""
        if not self.switches:
            return describer
        asked = copy.copy(describer)
        for name, value in self.switches.items():
            setattr(asked, name, value)
        return asked


class Describer(Protocol):
    """What a benchmark asks: a captioner, or a general model that is shown regions."""

    @property
    def model_id(self) -> str:
        """Its name."""
        ...

    @property
    def model_type(self) -> str:
        """Which kind of model it is, such as ``"GAR"``; ``"chat"`` for a general one.

        A general one answers about every region in a request of its own.
        """
        ...

    @property
    def describe(self) -> Callable[..., Any]:
        """As ``Captioner.describe``."""
        ...

    @property
    def ask(self) -> Callable[..., str]:
        """As ``Captioner.ask``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a model said about one item, before it is written down.

    Attributes:
        text: what it said.
        extra: what else the benchmark keeps, JSON-able.
    """

    text: str
    extra: Mapping[str, Any] = field(default_factory=dict)


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
        usage: tokens and ``requests`` of a model behind an endpoint, where they are counted.
    """

    item: str
    text: str
    model: str = ""
    prompt: str | None = None
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JudgeCall:
    """One request to a judge.

    Attributes:
        item: the item's id.
        key: names the call within the item, such as ``"recognition"`` or ``"3"``.
        messages: as in the OpenAI chat-completions API; pictures as data URLs.
        options: of the request, such as ``temperature`` and ``max_tokens``.
        attempts: how often a judge is asked until its answer can be read.
        retries: what it is asked from the second time on, where that differs; the last of them
            as often as there are attempts left.
    """

    item: str
    key: str
    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 1
    retries: Sequence[JudgeCall] = ()

    def at(self, attempt: int) -> JudgeCall:
        """What a judge is asked at an attempt, from 0."""
        return (self, *self.retries)[min(attempt, len(self.retries))]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the arithmetic gives.

    Attributes:
        table: named numbers in the order of the report, unrounded, in the units of the benchmark.
        items: for each item its own numbers and how its judge answers were read, JSON-able. A
            number under the name of a table entry is one that the entry is the mean of: entries
            that are such means get confidence intervals.
        notes: what a reader must know: missing predictions, unreadable answers, contradictions.
        counts: how many items an entry of the table rests on, where that is told.
        lower_is_better: entries of which 0 is the best.
        failures: ids of the items that the report shows first, the worst first.
    """

    table: Mapping[str, float]
    items: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    lower_is_better: frozenset[str] = frozenset()
    failures: tuple[str, ...] = ()


class Benchmark(ABC):
    """A benchmark; one small file each in this folder: a frozen dataclass of its settings.

    Attributes:
        name: what ``fastregion eval`` calls it.
        summary: one line that says what is measured.
        version: raised whenever the same predictions and answers may get other numbers.
        needs_data: whether a data folder is needed.
        judged: whether a judge is needed.
        template: name of the file of the judge's wording in ``judge_templates/``; None without one.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    version: ClassVar[int]
    needs_data: ClassVar[bool] = True
    judged: ClassVar[bool] = False
    template: ClassVar[str | None] = None

    @abstractmethod
    def items(self, data: Path) -> Iterable[Item]:
        """Read the published annotation files below a folder, checked, in their order.

        An iterator where an item takes long to make.

        Raises:
            FileNotFoundError, ValueError: the message names file, row and field.
        """

    @abstractmethod
    def query(self, item: Item, model_type: str) -> Query:
        """What a captioner of a type (``"GAR"``, ``"llava_llama"``, ...) is asked."""

    def picture(self, item: Item, data: Path) -> Picture:
        """What an item shows: its file, or those of its frames.

        Raises:
            FileNotFoundError: a file is missing; the message names it and the item.
        """
        if item.image is None and not item.frames:
            raise ValueError(f"{self.name}: item {item.id!r} has neither an image nor frames")
        names = item.frames or (item.image or "",)
        for name in names:
            if not (data / name).is_file():
                raise FileNotFoundError(
                    f"data: item {item.id!r} of {self.name} needs {str(data / name)!r}: no such "
                    "file"
                )
        files = [str(data / name) for name in names]
        return files if item.frames else files[0]

    def predict(
        self, describer: Describer, picture: Picture, items: Sequence[Item], query: Query
    ) -> Sequence[Answered]:
        """Ask a model about items of one picture that share a query.

        Args:
            describer: the model.
            picture: what ``picture`` gave for them.
            items: at least one.
            query: what it is asked about each.

        Returns:
            One for each item, in their order.
        """
        describer = query.switched(describer)
        extra = {"switches": dict(query.switches)} if query.switches else {}
        if query.joint:
            if query.prompt is None:
                raise ValueError(f"{self.name}: a joint query needs a prompt")
            return [
                Answered(
                    text=describer.ask(picture, list(item.masks), query.prompt, **query.options),
                    extra=extra,
                )
                for item in items
            ]
        if items[0].frames:  # one object a call: its list has a region for each frame
            objects = [[list(item.masks)] for item in items]
        else:
            for item in items:
                if len(item.masks) != 1:
                    raise ValueError(
                        f"{self.name}: item {item.id!r} needs one mask, got {len(item.masks)}; "
                        "several are asked about by a joint query"
                    )
            objects = [[item.masks[0] for item in items]]
        return [
            Answered(text=text, extra=extra)
            for regions in objects
            for text in describer.describe(picture, regions, query.prompt, **query.options)
        ]

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
