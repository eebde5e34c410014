"""``fastregion eval``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastregion.cli.errors import UNEXPECTED, bad_input, reporting

if TYPE_CHECKING:
    from fastregion.evaluation.benchmarks.base import Describer
    from fastregion.evaluation.judges.chat import Chat

__all__ = ["EVAL_HELP", "evaluate"]

EVAL_HELP = """Measure how good a captioner is on a benchmark.

What the model says, what the judge says and the numbers are kept in the
output folder, with a page to look at; a run that was stopped goes on
with --resume.

\b
[bold]Examples[/bold]
  fastregion eval --list
  fastregion eval scenes --model fastregion/mini
  fastregion eval scenes --set scenes=200 --set lookalikes=8 --unique
  fastregion eval dlc-bench --model HaochenWang/GAR-1B --data DLC-bench \\
      --judge http://localhost:8000/v1 --judge-model llama-3.1-8b
  fastregion eval dlc-bench --data DLC-bench --judge recorded \\
      --record gar_1b_eval.json
  fastregion eval dlc-bench --model openai:gpt-4o --data DLC-bench \\
      --model-url https://api.openai.com/v1 --present contour --judge ...
  fastregion eval --compare runs/scenes-a runs/scenes-b

\b
[bold]Keys[/bold] of endpoints come from the environment alone:
FASTREGION_JUDGE_KEY, FASTREGION_MODEL_KEY; for api.openai.com also
OPENAI_API_KEY.

Exit code 1: some items have no answer of the model or the judge; the
report names them, and --resume asks for them again.
"""

_OPENAI = "openai:"


def evaluate(
    context: typer.Context,
    benchmark: Annotated[
        str | None, typer.Argument(metavar="BENCHMARK", help="Its name; --list has all.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="A captioner's name or folder; or a general vision-language model: openai:NAME "
            "at --model-url, or local:FOLDER.",
        ),
    ] = "fastregion/mini",
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The benchmark's published files.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the benchmark; repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the run.", show_default="runs/BENCHMARK-MODEL"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what the output folder holds.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N items.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="In place of the benchmark's prompt.")
    ] = None,
    unique: Annotated[
        bool, typer.Option("--unique", help="Compare the texts of a picture, as in describe.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of drawing, where the benchmark draws.")] = 0,
    present: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How a general model is shown regions: contour, overlay, crop, blur-outside or "
            "set-of-marks.",
        ),
    ] = "contour",
    model_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="FASTREGION_MODEL_URL", help="Endpoint of an openai:NAME model."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="URL|local:FOLDER|recorded",
            envvar="FASTREGION_JUDGE",
            help="An OpenAI-compatible endpoint, a transformers model, or what is on disk.",
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", envvar="FASTREGION_JUDGE_MODEL", help="Its name at the endpoint."
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Published predictions (and answers) in the benchmark's own format.",
        ),
    ] = None,
    template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Wording of the judge in place of ours.")
    ] = None,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="Ask the judge N times, for its spread.")
    ] = 1,
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, help="Requests to an endpoint at a time.")
    ] = 8,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="For a request to an endpoint.")
    ] = 120.0,
    tries: Annotated[
        int, typer.Option(metavar="N", min=1, help="Requests until a message is given up.")
    ] = 6,
    requests_per_minute: Annotated[
        float | None, typer.Option(metavar="N", help="Limit of an endpoint.")
    ] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option(metavar="N", help="Limit of an endpoint.")
    ] = None,
    price: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="IN OUT", help="Of a million tokens of the judge's prompts and answers."
        ),
    ] = None,
    model_price: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="IN OUT", help="The same of a model at an endpoint."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Compare the folders of two runs instead."),
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="Name all benchmarks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")] = False,
) -> None:
    """Measure how good a captioner is on a benchmark."""
    with reporting(debug):
        if list_all:
            _list(as_json)
            return
        if compare is not None:
            _compare(*compare, as_json)
            return
        limits = {
            "concurrency": concurrency,
            "timeout": timeout,
            "tries": tries,
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
        }
        chats: list[Chat] = []
        try:
            with bad_input():
                from fastregion.evaluation.predictions import Asked
                from fastregion.evaluation.run import ANSWERS, check_fit, evaluate
                from fastregion.evaluation.settings import make_benchmark

                if benchmark is None:
                    raise ValueError("BENCHMARK: expected a name; --list has all")
                made = make_benchmark(benchmark, settings or [])
                if not made.judged and _from_environment(context, "judge"):
                    judge = None  # it is there for other benchmarks
                name = record.stem if record is not None else model
                folder = output or Path("runs") / f"{benchmark}-{_file_name(name)}"
                if judge is not None and not (judge == "recorded" and record is not None):
                    chats.append(_judge(judge, judge_model, folder / ANSWERS, limits))
                chat = chats[0] if chats else None
                describer = None
                if record is None:
                    check_fit(made, data, chat)
                    describer = _describer(model, model_url, present, limits, chats)
                result = evaluate(
                    made,
                    describer,
                    data=data,
                    output=folder,
                    resume=resume,
                    asked=Asked(
                        prompt=prompt, options={"unique": True} if unique else {}, seed=seed
                    ),
                    limit=limit,
                    chat=chat,
                    repeats=repeats,
                    template=template,
                    prices=price,
                    model_prices=model_price,
                    record=record,
                )
        finally:
            for opened in chats:
                opened.close()
        if as_json:
            typer.echo(json.dumps(result.to_json(), indent=2))
        else:
            from rich.console import Console

            from fastregion.evaluation.page import PAGE
            from fastregion.evaluation.report import result_table

            Console().print(result_table(result))
            typer.echo(f"page: {folder / PAGE}")
        if result.missing or result.unjudged:
            raise typer.Exit(UNEXPECTED)


def _list(as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from fastregion.evaluation.benchmarks.registry import NAMES, find_benchmark
    from fastregion.evaluation.settings import settings_of

    found = {name: find_benchmark(name) for name in NAMES}
    if as_json:
        rows = {
            name: {
                "version": benchmark.version,
                "judged": benchmark.judged,
                "needs_data": benchmark.needs_data,
                "settings": list(settings_of(benchmark)),
                "summary": benchmark.summary,
            }
            for name, benchmark in found.items()
        }
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("benchmark", "what", "judge", "settings")
    for name, benchmark in found.items():
        judged = "yes" if benchmark.judged else ""
        table.add_row(name, benchmark.summary, judged, ", ".join(settings_of(benchmark)))
    Console().print(table)


def _compare(a: Path, b: Path, as_json: bool) -> None:
    from rich.console import Console

    from fastregion.evaluation.compare import compare
    from fastregion.evaluation.result import read_result

    with bad_input():
        found = compare(read_result(a, "compare"), read_result(b, "compare"))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        Console().print(found)


def _judge(name: str, model: str | None, answers: Path, limits: dict[str, Any]) -> Chat:
    from fastregion.evaluation.judges.choose import LOCAL, local_chat, recorded_judge

    if name == "recorded":
        return recorded_judge(answers, model)
    if name.startswith(LOCAL):
        return local_chat(name)
    return _endpoint(name, model, "judge", limits)


def _describer(
    name: str, url: str | None, present: str, limits: dict[str, Any], chats: list[Chat]
) -> Describer:
    from fastregion.evaluation.judges.choose import LOCAL, local_chat
    from fastregion.evaluation.shown_model import ShownModel

    if name.startswith(LOCAL):
        chats.append(local_chat(name))
    elif name.startswith(_OPENAI):
        if url is None:
            raise ValueError(f"model: {name!r} needs --model-url")
        chats.append(_endpoint(url, name.removeprefix(_OPENAI), "model", limits))
    else:
        from fastregion.models import load

        return load(name)
    return ShownModel(chats[-1], present)


def _endpoint(url: str, model: str | None, what: str, limits: dict[str, Any]) -> Chat:
    from fastregion.evaluation.judges.choose import api_key
    from fastregion.evaluation.judges.openai_compatible import Endpoint, OpenAICompatible

    if "://" not in url:
        raise ValueError(
            f"{what}: expected the URL of an endpoint, local:FOLDER or recorded, got {url!r}"
        )
    if model is None:
        raise ValueError(f"{what}: an endpoint needs the name of its model, --judge-model")
    key = api_key(url, f"FASTREGION_{what.upper()}_KEY")
    return OpenAICompatible(Endpoint(base_url=url, model=model, api_key=key, **limits))


def _from_environment(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "ENVIRONMENT"


def _file_name(name: str) -> str:
    """A model's name as part of a folder's."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")
