"""The commands put together, and what happens when one ends."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from fastregion._version import __version__
from fastregion.cli import bench, describe, evaluate, info, segment, train
from fastregion.cli.errors import BAD_INPUT, print_error

__all__ = ["main"]

# The base of all usage errors. typer has bundled click since 0.2x and does not export it.
_UsageError: type[Any] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

_HELP = """Describe regions of images in words.

\b
[bold]Examples[/bold]
  fastregion describe street.jpg --box 40,60,220,300
  fastregion describe street.jpg --mask car.png --mask tree.png --plot out.png
  fastregion ask street.jpg "What color is it?" --point 120,80
  fastregion segment street.jpg --plot out.png
  fastregion train mini minutes=10 --output runs/mini
  fastregion eval scenes --model runs/mini/model
  fastregion info

Boxes are x0,y0,x1,y1 in pixels, x1 and y1 excluded; points are x,y.

Exit codes: 0 done; 2 bad input, a line on stderr says what; 1 anything
else, --debug shows where.
"""

app = typer.Typer(
    name="fastregion",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("describe", help=describe.DESCRIBE_HELP)(describe.describe)
app.command("ask", help=describe.ASK_HELP)(describe.ask)
app.command("segment", help=segment.SEGMENT_HELP)(segment.segment)
app.command("bench", help=bench.BENCH_HELP)(bench.bench)
app.command("info")(info.info)
app.command("train", help=train.TRAIN_HELP)(train.train)
app.command("eval", help=evaluate.EVAL_HELP, no_args_is_help=True)(evaluate.evaluate)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastregion {__version__}")
        raise typer.Exit


@app.callback(help=_HELP)
def _fastregion(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Describe regions of images in words."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code.

    Args:
        arguments: those after the program's name; the process's own by default.
    """
    command = typer.main.get_command(app)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = command.main(
                args=None if arguments is None else list(arguments),
                prog_name="fastregion",
                standalone_mode=False,
            )
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "fastregion"
        if message := error.format_message():  # without arguments, the help is all there is
            print_error(f"{message} (see: {path} --help)")
        code = BAD_INPUT
    except typer.Abort:
        code = 130
    sys.exit(code or 0)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"fastregion: warning: {message}", file=sys.stderr)
