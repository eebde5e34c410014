"""The first step of an evaluation: what a model says about every item, on disk as it is said."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastregion._version import __version__
from fastregion.evaluation.benchmarks.base import Benchmark, Describer, Item, Prediction, Query
from fastregion.evaluation.benchmarks.rows import check_in_folder
from fastregion.evaluation.fingerprint import fingerprint
from fastregion.evaluation.judges.chat import Unanswered
from fastregion.evaluation.parallel import each
from fastregion.evaluation.row_file import RowFile
from fastregion.models.request import TooManyRegionsError

__all__ = ["Asked", "Predictions", "check_items", "model_of", "predict"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user wants otherwise than the benchmark has it.

    Attributes:
        prompt: in place of the benchmark's; None keeps it.
        options: further arguments of ``describe`` or ``ask``, JSON-able.
        seed: of drawing, where the benchmark draws (has a temperature).
    """

    prompt: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def apply(self, query: Query) -> Query:
        """The benchmark's query as the user wants it."""
        options = {**query.options, **self.options}
        if options.get("temperature"):
            options["seed"] = self.seed
        prompt = query.prompt if self.prompt is None else self.prompt
        return dataclasses.replace(query, prompt=prompt, options=options)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What was said.

    Attributes:
        found: by item id.
        missing: why there is none, by item id; another run may try again.
    """

    found: Mapping[str, Prediction]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens and ``requests`` of all that was said, where they are counted."""
        total: Counter[str] = Counter()
        for prediction in self.found.values():
            total.update(prediction.usage)
        return dict(sorted(total.items()))


def model_of(describer: Describer) -> dict[str, Any]:
    """What tells a model from others: its name and a number for its weights."""
    model = getattr(describer, "model", None)
    known = {"model": describer.model_id}
    return known if model is None else {**known, "weights": fingerprint(model)}


def predict(
    benchmark: Benchmark,
    describer: Describer,
    items: Sequence[Item],
    data: Path,
    *,
    asked: Asked,
    path: Path | None,
    progress: bool,
) -> Predictions:
    """Ask a model about every item that the file does not hold yet.

    Args:
        benchmark: says what is asked.
        describer: the model; up to ``describer.concurrency`` pictures at a time where it has that,
            and what ``describer.take_usage()`` tells is kept.
        items: of the benchmark.
        data: its folder.
        asked: what is asked otherwise.
        path: the JSONL file; None keeps the predictions in memory.
        progress: whether a bar on standard error shows how far it is.

    Raises:
        FileNotFoundError, ValueError: a picture is missing, or the file holds something else; no
            model has been asked then.
    """
    header = {
        "kind": "predictions",
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "fastregion": __version__,
        **model_of(describer),
        **dataclasses.asdict(asked),
    }
    groups = list(_groups(benchmark, items, describer.model_type, asked))
    if type(benchmark).picture is Benchmark.picture:  # all files are there, before any work
        for group in groups:
            benchmark.picture(group.items[0], data)
    file = RowFile(path, header, key=lambda row: row["item"])
    _check_prompts(groups, file)
    missing: dict[str, str] = {}
    take_usage: Callable[[], Mapping[str, int]] = getattr(describer, "take_usage", dict)

    def work(group: _Group) -> None:
        try:
            picture = benchmark.picture(group.items[0], data)
            answers = benchmark.predict(describer, picture, group.items, group.query)
        except (Unanswered, TooManyRegionsError) as error:
            missing.update({item.id: str(error) for item in group.items})
            return
        usage = [take_usage(), *[{}] * (len(answers) - 1)]  # of the group, kept with its first item
        # A picture is written as a whole, also where a run was stopped between its rows: what is
        # said of a region may depend on the others.
        file.add(
            *(
                {
                    "item": item.id,
                    "text": answer.text,
                    "model": describer.model_id,
                    "prompt": group.query.prompt,
                    "seed": asked.seed,
                    "extra": dict(answer.extra),
                    "usage": dict(used),
                }
                for item, answer, used in zip(group.items, answers, usage, strict=True)
            )
        )

    waiting = [group for group in groups if any(item.id not in file.rows for item in group.items)]
    title = "asking the model" if progress else None
    for _ in each(work, waiting, getattr(describer, "concurrency", 1), title):
        pass
    found = {item.id: Prediction(**file.rows[item.id]) for item in items if item.id in file.rows}
    in_order = {item.id: missing[item.id] for item in items if item.id in missing}
    return Predictions(found=found, missing=in_order)


def _check_prompts(groups: Sequence[_Group], file: RowFile) -> None:
    """Raise where the file has an answer to another question: the benchmark's settings changed."""
    for group in groups:
        now = group.query.prompt, dict(group.query.switches)
        for item in group.items:
            row = file.rows.get(item.id)
            if row is None:
                continue
            before = row["prompt"], row.get("extra", {}).get("switches", {})
            for asked, would in zip(before, now, strict=True):
                if asked != would:
                    raise ValueError(
                        f"output: item {item.id!r} was asked {asked!r} before, and now would be "
                        f"{would!r}; give another folder"
                    )


def check_items(items: Sequence[Item], name: str) -> None:
    """Raise ValueError unless there are items, their ids differ, and files lie in the folder."""
    if not items:
        raise ValueError(f"{name}: expected at least one item, got none")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"{name}: two items have the id {item.id!r}")
        seen.add(item.id)
        for file in item.frames or (item.image or "",):
            check_in_folder(file, f"item {item.id!r} of {name}")


@dataclass(frozen=True)
class _Group:
    """Items of one picture that are asked about in one way; of a general model one item each."""

    items: Sequence[Item]
    query: Query


def _groups(
    benchmark: Benchmark, items: Sequence[Item], model_type: str, asked: Asked
) -> Iterator[_Group]:
    def shared(item: Item) -> tuple[Any, ...]:
        query = asked.apply(benchmark.query(item, model_type))
        # What a general model said of one region is not lost with its answer about another.
        alone = item.id if model_type == "chat" else None
        options = sorted(query.options.items()), sorted(query.switches.items())
        return item.image, item.frames, query.prompt, query.joint, options, alone

    for _, group in itertools.groupby(items, shared):
        found = tuple(group)
        yield _Group(found, asked.apply(benchmark.query(found[0], model_type)))
