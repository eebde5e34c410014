"""``fastregion describe`` and ``fastregion ask``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastregion.cli.errors import bad_input, reporting
from fastregion.cli.regions import Boxes, Masks, Points, Rles, read_regions

if TYPE_CHECKING:
    from fastregion.images import RgbImage
    from fastregion.models import Captioner, Description, RegionRequest
    from fastregion.regions import Region

__all__ = ["ASK_HELP", "DESCRIBE_HELP", "ask", "describe"]

ImagePath = Annotated[
    Path, typer.Argument(metavar="IMAGE", help="The picture.", show_default=False)
]
Model = Annotated[
    str, typer.Option(metavar="NAME", help="A captioner's name, or a folder with one.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest text, in tokens.")]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="0 takes the most likely word; higher varies more.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Makes a temperature above 0 repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")]


DESCRIBE_HELP = """Describe each given region of a picture in a sentence.

\b
[bold]Examples[/bold]
  fastregion describe street.jpg --box 40,60,220,300
  fastregion describe street.jpg --mask car.png --mask tree.png --json
  fastregion describe street.jpg --point 120,80 --prompt "in one short phrase"
  fastregion describe street.jpg --rle annotations.json --plot out.png
  fastregion describe street.jpg --mask a.png --mask b.png --unique

Coordinates are those of the picture as a viewer shows it. Several regions
are numbered: masks first, then boxes, points and RLE files.
"""


def describe(
    image: ImagePath,
    mask: Masks = None,
    box: Boxes = None,
    point: Points = None,
    rle: Rles = None,
    model: Model = "fastregion/mini",
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help='Such as "in one short phrase".')
    ] = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print text while it is made.")] = False,
    unique: Annotated[
        bool,
        typer.Option("--unique", help="Look for texts that fit no other of the regions as well."),
    ] = False,
    as_json: Json = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", help="Draw the regions and their descriptions."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Describe each given region of a picture in a sentence."""
    with reporting(debug):
        if stream and (as_json or plot):
            raise ValueError("--stream: cannot be combined with --json or --plot")
        if stream and unique:
            raise ValueError("--unique: cannot be combined with --stream")
        if plot is not None:
            from fastregion.images import check_output_path

            check_output_path(plot, argument="--plot")
        pixels, regions = _read_input(image, mask, box, point, rle)
        options = _sampling(max_new_tokens, temperature, seed)
        captioner, request = _prepare(model, pixels, regions, prompt, joint=False)
        if stream:
            _print_stream(captioner, request, options)
            return
        descriptions = captioner.describe(
            request.image, request.regions, prompt, return_details=True, unique=unique, **options
        )
        _note_alike(descriptions)
        if plot is not None:
            from fastregion.models.description import plot_descriptions

            plot_descriptions(descriptions, plot)
        if as_json:
            _print_json(
                image=str(image),
                model=captioner.model_id,
                descriptions=[description.to_dict() for description in descriptions],
            )
            return
        for index, description in enumerate(descriptions):
            typer.echo(_number(index, len(descriptions)) + description.text)


def _note_alike(descriptions: Sequence[Description]) -> None:
    """Say on standard error which texts fit another region as well, where that was compared."""
    for number, description in enumerate(descriptions, 1):
        found = description.uniqueness
        if found is not None and found.nearest is not None and found.rank > 1:
            typer.echo(f"note: text {number} fits region {found.nearest + 1} as well", err=True)


ASK_HELP = """Ask one question about one region, or about several together.

\b
[bold]Examples[/bold]
  fastregion ask street.jpg "What color is it?" --box 40,60,220,300
  fastregion ask street.jpg "Is <Prompt0> larger than <Prompt1>?" --mask a.png --mask b.png

The regions are called <Prompt0>, <Prompt1>, ...: masks first, then boxes,
points and RLE files.
"""


def ask(
    image: ImagePath,
    question: Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)],
    mask: Masks = None,
    box: Boxes = None,
    point: Points = None,
    rle: Rles = None,
    model: Model = "fastregion/mini",
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask one question about one region, or about several together."""
    with reporting(debug):
        pixels, regions = _read_input(image, mask, box, point, rle)
        options = _sampling(max_new_tokens, temperature, seed)
        captioner, request = _prepare(model, pixels, regions, question, joint=True)
        answer = captioner.ask(request.image, request.regions, question, **options)
        if as_json:
            _print_json(
                image=str(image), model=captioner.model_id, question=question, answer=answer
            )
        else:
            typer.echo(answer)


def _read_input(
    image: Path,
    mask: list[Path] | None,
    box: list[str] | None,
    point: list[str] | None,
    rle: list[Path] | None,
) -> tuple[RgbImage, list[Region]]:
    """Picture and regions; torch is not imported for them, so that mistakes show at once."""
    with bad_input():
        from fastregion.images import load_image

        pixels = load_image(image)
    height, width = pixels.shape[:2]
    return pixels, read_regions((height, width), mask, box, point, rle)


def _prepare(
    model: str, pixels: RgbImage, regions: list[Region], instruction: str | None, *, joint: bool
) -> tuple[Captioner, RegionRequest]:
    with bad_input():
        from fastregion.models import RegionRequest, load

        request = RegionRequest(pixels, tuple(regions), instruction, joint=joint)
        return load(model), request


def _sampling(max_new_tokens: int, temperature: float, seed: int | None) -> dict[str, Any]:
    with bad_input():
        from fastregion.models.request import Sampling

        options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": seed,
        }
        Sampling(**options)  # checks them
        return options


def _print_stream(captioner: Captioner, request: RegionRequest, options: dict[str, Any]) -> None:
    # One call, in which tiles that no region touches are encoded once; one region at a time, so
    # that texts do not take turns.
    regions = list(request.regions)
    pieces = captioner.describe(
        request.image, regions, request.instruction, stream=True, batch_size=1, **options
    )
    shown = -1  # a text may have no piece
    for index, piece in pieces:
        shown = _begin(shown, index, len(regions))
        typer.echo(piece, nl=False)
    _begin(shown, len(regions) - 1, len(regions))
    typer.echo()


def _begin(shown: int, index: int, count: int) -> int:
    """Lines up to that of a region begun; the number of the newest."""
    for number in range(shown + 1, index + 1):
        if number:
            typer.echo()
        typer.echo(_number(number, count), nl=False)
    return max(shown, index)


def _number(index: int, count: int) -> str:
    return f"{index + 1}: " if count > 1 else ""


def _print_json(**values: Any) -> None:
    typer.echo(json.dumps(values, indent=2))
