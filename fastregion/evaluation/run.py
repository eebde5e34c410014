"""An evaluation: three steps, each with its file in the run's folder.

    predictions.jsonl    what the model said
    answers.jsonl        what the judge said
    scores.json          the numbers, and report.html to look at

A step does only what its file does not hold yet, so that a run that was killed goes on, another
judge needs no model, and new arithmetic needs neither.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastregion._version import __version__
from fastregion.evaluation.benchmarks.base import Benchmark, Describer, Prediction, Scores
from fastregion.evaluation.judges.chat import Chat
from fastregion.evaluation.judging import Judged, judge
from fastregion.evaluation.page import PAGE, picture_of, write_page
from fastregion.evaluation.predictions import Asked, Predictions, check_items, model_of, predict
from fastregion.evaluation.result import SCORES, Prices, Result, make_result
from fastregion.evaluation.settings import settings_of
from fastregion.evaluation.templates import read_template

__all__ = ["ANSWERS", "PREDICTIONS", "check_fit", "evaluate"]

PREDICTIONS, ANSWERS = "predictions.jsonl", "answers.jsonl"


def evaluate(
    benchmark: Benchmark,
    describer: Describer | None,
    *,
    data: Path | None = None,
    output: Path | None = None,
    resume: bool = False,
    asked: Asked | None = None,
    limit: int | None = None,
    chat: Chat | None = None,
    repeats: int = 1,
    template: Path | None = None,
    prices: Prices | None = None,
    model_prices: Prices | None = None,
    record: Path | None = None,
    progress: bool = True,
) -> Result:
    """Evaluate a model on a benchmark.

    Args:
        benchmark: with its settings.
        describer: the model; None where ``record`` holds what it said.
        data: the benchmark's folder; None for one that needs none.
        output: the run's folder; None keeps everything in memory.
        resume: whether results that the folder holds are gone on with.
        asked: what is asked otherwise than the benchmark has it.
        limit: only so many items, the first ones.
        chat: the judge; None where there is none, or where ``record`` holds its answers.
        repeats: how often the judge is asked everything, for the spread of its answers.
        template: wording of the judge in place of the package's.
        prices: of the judge's tokens.
        model_prices: of the tokens of a model behind an endpoint.
        record: published predictions, and answers of a judge, in the benchmark's own format.
        progress: whether bars on standard error show how far it is.

    Raises:
        FileNotFoundError, ValueError, ImportError, NotImplementedError: an argument is not as
            described, or does not fit the benchmark; the message begins with its name.
    """
    _check(benchmark, describer, data, output, resume, limit, chat, repeats, record)
    for name, given in (("template", template), ("price", prices)):
        if given is not None and chat is None:
            raise ValueError(f"{name}: needs a judge that is asked")
    folder, asked = data or Path(), asked or Asked()
    wording = read_template(benchmark.template, template)
    items = list(itertools.islice(benchmark.items(folder), limit))
    check_items(items, benchmark.name)
    judged = Judged()
    if record is None:
        assert describer is not None, "checked above"
        path = None if output is None else output / PREDICTIONS
        predictions = predict(
            benchmark, describer, items, folder, asked=asked, path=path, progress=progress
        )
        model = model_of(describer)
    else:
        found, answers = benchmark.recorded(folder, record)
        predictions = _recorded_predictions({one.item: one for one in found}, [i.id for i in items])
        model = {"model": found[0].model if found else record.name}
        judged = Judged(answers=[answers])
    if chat is not None:
        judged = judge(
            benchmark,
            chat,
            items,
            predictions.found,
            wording.text if wording else "",
            folder,
            repeats=repeats,
            path=None if output is None else output / ANSWERS,
            progress=progress,
        )
    header = {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "settings": _settings(benchmark),
        "limit": limit,
        "fastregion": __version__,
        **model,
        **dataclasses.asdict(asked),
        "record": None if record is None else record.name,
        "judge": _judge_name(chat, judged, record),
        "template": None
        if wording is None or chat is None
        else {"name": wording.name, "sha256": wording.sha256},
        "repeats": repeats,
    }
    # A record is scored as a whole, its gaps included; of a run of ours only what is complete.
    scored = [
        item
        for item in items
        if (record is not None and chat is None)
        or (item.id in predictions.found and item.id not in judged.missing)
    ]
    scores = [
        benchmark.score(scored, predictions.found, answers)
        if scored
        else Scores(table={}, notes=("nothing could be scored",))
        for answers in judged.answers
    ]
    if benchmark.judged and chat is None and record is None:
        scores[0] = dataclasses.replace(scores[0], notes=("no judge was asked", *scores[0].notes))
    result = make_result(header, items, predictions, judged, scores, prices, model_prices)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        result.save(output)
        write_page(output / PAGE, result, items, picture_of(benchmark, folder))
    return result


def check_fit(benchmark: Benchmark, data: Path | None, chat: Chat | None) -> None:
    """What can be said before a model is read, which takes minutes: data and judge fit.

    Raises:
        FileNotFoundError, ValueError: they do not.
    """
    if benchmark.needs_data and data is None:
        raise ValueError(f"data: {benchmark.name} needs the folder of its published files")
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"data: {str(data)!r} is no folder")
    if chat is not None and not benchmark.judged:
        raise ValueError(f"judge: {benchmark.name} has no judge")


def _check(
    benchmark: Benchmark,
    describer: Describer | None,
    data: Path | None,
    output: Path | None,
    resume: bool,
    limit: int | None,
    chat: Chat | None,
    repeats: int,
    record: Path | None,
) -> None:
    """Everything that can be wrong before any work."""
    check_fit(benchmark, data, chat)
    if record is None and describer is None:
        raise ValueError("model: expected a model, or a record of what one said")
    if record is not None and not record.exists():
        raise FileNotFoundError(f"record: {str(record)!r}: no such file")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: must be at least 1, got {limit}")
    if repeats < 1:
        raise ValueError(f"repeats: must be at least 1, got {repeats}")
    if repeats > 1 and chat is None:
        raise ValueError(f"repeats: needs a judge that is asked, got {repeats}")
    if output is not None and not resume:
        for name in (PREDICTIONS, ANSWERS, SCORES):
            if (output / name).exists():
                raise ValueError(
                    f"output: {str(output)!r} holds results already; resume continues them "
                    "(--resume), or name another folder"
                )


def _judge_name(chat: Chat | None, judged: Judged, record: Path | None) -> str | None:
    if chat is not None:
        return chat.name
    return "its record" if record is not None and any(judged.answers) else None


def _recorded_predictions(found: Mapping[str, Prediction], items: list[str]) -> Predictions:
    missing = {item: "not in the record" for item in items if item not in found}
    return Predictions(found=found, missing=missing)


def _settings(benchmark: Benchmark) -> dict[str, Any]:
    values = {name: getattr(benchmark, name) for name in settings_of(type(benchmark))}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}
