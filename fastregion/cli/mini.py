"""``fastregion train mini``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastregion.cli.errors import bad_input, reporting

__all__ = ["train_app"]

train_app = typer.Typer(no_args_is_help=True, help="Train a captioner.")
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")]


_TRAIN_HELP = """Train the built-in captioner on rendered scenes.

\b
[bold]Examples[/bold]
  fastregion train mini --output runs/mini --minutes 180
  fastregion describe street.jpg --box 40,60,220,300 --model runs/mini

A folder that holds an unfinished run is continued.
"""


@train_app.callback()
def _train() -> None:
    """Train a captioner."""


@train_app.command("mini", help=_TRAIN_HELP)
def train_mini(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the weights, the log and the state.")
    ],
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="How long to train; or give --steps.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="How many steps to train; or give --minutes.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Start from these weights instead of random ones."),
    ] = None,
    facts_share: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Part of the run that trains the vision tower alone; 0 if it is trained already.",
        ),
    ] = 0.43,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Its peak.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0, help="Decides the weights and the scenes.")] = 0,
    processes: Annotated[int, typer.Option(min=1, help="One for each core.")] = 2,
    debug: Debug = False,
) -> None:
    """Train the built-in captioner on rendered scenes."""
    with reporting(debug):
        with bad_input():
            from fastregion.training.mini import MiniRecipe, train

            recipe = MiniRecipe(
                minutes=minutes,
                steps=steps,
                start_from=start_from,
                facts_share=facts_share,
                learning_rate=learning_rate,
                seed=seed,
                processes=processes,
            )
            output.mkdir(parents=True, exist_ok=True)
        train(output, recipe)
        typer.echo(f"saved in {output}")
