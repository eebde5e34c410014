"""``fastregion train``: runs a recipe, or says what it would do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastregion.cli.errors import bad_input, reporting

if TYPE_CHECKING:
    from fastregion.training.dry_run import DryRun

__all__ = ["TRAIN_HELP", "train"]

TRAIN_HELP = """Train a captioner as a recipe says.

RECIPE is gar, dam, ureca_stage1, ureca_stage2, pix2cap or mini (the numbers
of the papers), or a YAML file with the same keys. Any key can be given anew
as key=value; dots lead inside, data.0.path to the first source of rows.

\b
[bold]Examples[/bold]
  fastregion train mini minutes=10 --output runs/mini
  fastregion train gar data.0.format=jsonl data.0.path=train.jsonl --dry-run
  fastregion train dam data.0.format=jsonl data.0.path=train.jsonl \\
      lora.rank=16 batch_size=1 accumulation=16 optimizer.learning_rate=2e-4
  torchrun --nproc-per-node 8 -m fastregion train gar fsdp=true ...
  fastregion describe street.jpg --box 40,60,220,300 --model runs/mini/model

A folder that holds an unfinished run of the same recipe is continued, with
the same results as if it had never stopped. SIGTERM and Ctrl-C save and end
it with exit code 0. --dry-run prints what would be trained, the memory it
takes, what is wrong with the rows, and one batch as text.
"""


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Keys given anew.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the run; runs/RECIPE by default. The captioner is in DIR/model.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON at the end.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")] = False,
) -> None:
    """Train a captioner as a recipe says."""
    with reporting(debug):
        with bad_input():
            from fastregion.training.recipe import parse_overrides, read_recipe

            parsed = read_recipe(recipe, parse_overrides(overrides or ()))
        if dry_run:
            with bad_input():
                from fastregion.training.dry_run import dry_run as look

                found = look(parsed)
            if as_json:
                typer.echo(json.dumps(asdict(found), indent=2))
            else:
                _print(found)
            return
        folder = output or Path("runs", Path(recipe).stem)
        with bad_input():
            from fastregion.training.loop import train as run
        with bad_input("output"):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            finished = run(parsed, folder)
        except (
            FileNotFoundError,
            PermissionError,
            ImportError,
        ) as error:  # data, weights or libraries of the recipe
            raise ValueError(str(error)) from error
        from fastregion.training.processes import is_first_process

        if is_first_process():
            _tell(folder, finished, as_json)


def _tell(folder: Path, finished: bool, as_json: bool) -> None:
    from fastregion.training.metrics import METRICS, read_metrics

    rows = read_metrics(folder / METRICS)
    if as_json:
        answer = {
            "finished": finished,
            "output": str(folder),
            "model": str(folder / "model") if finished else None,
            "last": rows[-1] if rows else None,
        }
        typer.echo(json.dumps(answer, indent=2))
    elif finished:
        typer.echo(f"saved in {folder / 'model'}")
    else:
        typer.echo(f"stopped after step {rows[-1]['step']}; the same command continues {folder}")


def _print(found: DryRun) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    parameters = Table(title="parameters", title_justify="left")
    parameters.add_column("name", overflow="fold")
    parameters.add_column("number", justify="right")
    for name, number in found.trained.items():
        parameters.add_row(name, f"{number:,}")
    parameters.add_section()
    parameters.add_row("trained", f"{sum(found.trained.values()):,}")
    parameters.add_row("frozen", f"{sum(found.frozen.values()):,}")
    console.print(parameters)
    memory = Table(title="memory", title_justify="left")
    memory.add_column("for")
    memory.add_column("MiB", justify="right")
    for purpose, size in (*found.memory.items(), ("all", sum(found.memory.values()))):
        memory.add_row(purpose, f"{size / 2**20:,.1f}")
    console.print(memory)
    console.print(found.memory_notes, highlight=False)
    if found.rows is not None:
        _section(console, "rows", found.rows)
    _section(console, f"a batch of {found.tokens} tokens", "\n".join(found.texts))


def _section(console: Any, title: str, text: str) -> None:
    console.print(f"\n{title}", style="italic")
    console.print(text, markup=False, highlight=False, soft_wrap=True)
