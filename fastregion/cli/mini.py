"""``fastregion eval mini``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fastregion.cli.errors import bad_input, reporting

__all__ = ["eval_app"]

eval_app = typer.Typer(no_args_is_help=True, help="Measure how good a captioner is.")
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")]


_EVAL_HELP = """Measure a captioner on what can be seen: colour, pattern, shape, size, place.

\b
[bold]Examples[/bold]
  fastregion eval mini --scenes 500
  fastregion eval mini --scenes 0 --photos photos.json --json
  fastregion eval mini --scenes 200 --lookalikes 8 --prompt "in 6 words" --unique
"""


@eval_app.callback()
def _eval() -> None:
    """Measure how good a captioner is."""


@eval_app.command("mini", help=_EVAL_HELP)
def eval_mini(
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A captioner's name, or a folder with one.")
    ] = "fastregion/mini",
    scenes: Annotated[int, typer.Option(min=0, help="How many rendered scenes.")] = 500,
    lookalikes: Annotated[
        int | None,
        typer.Option(min=2, max=12, help="Scenes of so many objects of one shape and colour."),
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file of annotated photographs.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help='Such as "in 6 words".')
    ] = None,
    unique: Annotated[
        bool, typer.Option("--unique", help="Compare the captions of a picture, as in describe.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSONL file of all captions; a stopped run continues it."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    debug: Debug = False,
) -> None:
    """Measure a captioner on what can be seen: colour, pattern, shape, size, place."""
    with reporting(debug):
        from rich.console import Console

        with bad_input():
            from fastregion.evaluation.mini import evaluate
            from fastregion.models import load

            captioner = load(model)
            report = evaluate(
                captioner,
                scenes=scenes,
                lookalikes=lookalikes,
                photos=photos,
                prompt=prompt,
                unique=unique,
                output=output,
            )
        if as_json:
            typer.echo(json.dumps(report.to_json(), indent=2))
        else:
            Console().print(report)
