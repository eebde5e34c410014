"""``fastregion segment``."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastregion.cli.describe import Debug, ImagePath, Json, Model
from fastregion.cli.errors import bad_input, reporting

if TYPE_CHECKING:
    from fastregion.models.coco_panoptic import PanopticImage

__all__ = ["SEGMENT_HELP", "segment"]

_PANOPTIC = "panoptic.json"

SEGMENT_HELP = """Find everything in a picture and describe it.

\b
[bold]Examples[/bold]
  fastregion segment street.jpg
  fastregion segment street.jpg --json --plot out.png
  fastregion segment street.jpg --panoptic out/

A Pix2Cap model finds things and stuff by itself, with categories. For other
models, areas of like colour are proposed, which may not be whole objects and
have no category: this needs pip install "fastregion\\[segment]". The first
line, or found_by in JSON, says which of the two it was.
"""


def segment(
    image: ImagePath,
    model: Model = "fastregion/mini",
    max_regions: Annotated[
        int, typer.Option(min=1, help="Most areas that are proposed, where they are proposed.")
    ] = 16,
    as_json: Json = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", help="Draw the segments and their descriptions."),
    ] = None,
    panoptic: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write panoptic.json and panoptic/NAME.png as COCO does; again to add a picture.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Find everything in a picture and describe it."""
    with reporting(debug):
        with bad_input():
            from fastregion.images import check_output_path, load_image

            if plot is not None:
                check_output_path(plot, argument="--plot")
            pixels = load_image(image)
            # COCO's pictures are called by their numbers.
            image_id = int(image.stem) if image.stem.isdecimal() else image.stem
            others = [] if panoptic is None else _other_images(panoptic, image_id, image.name)
            from fastregion.models import load
            from fastregion.models.segmentation import Segmenter, segment_image
            from fastregion.regions.proposals import propose_regions, proposer_name

            captioner = load(model)
            proposer = "" if isinstance(captioner, Segmenter) else proposer_name()
        found = segment_image(
            captioner,
            pixels,
            propose=functools.partial(propose_regions, max_regions=max_regions),
            proposer=proposer,
        )
        if plot is not None:
            from fastregion.models.segment import plot_segments

            plot_segments(pixels, found.segments, plot)
        if panoptic is not None:
            from fastregion.models.coco_panoptic import PanopticImage, write_panoptic

            panoptic.mkdir(parents=True, exist_ok=True)
            height, width = pixels.shape[:2]
            about = PanopticImage(image_id, image.name, (height, width), found.segments)
            write_panoptic(panoptic / _PANOPTIC, [*others, about])
        if as_json:
            typer.echo(json.dumps({"image": str(image), **found.to_dict()}, indent=2))
            return
        typer.echo(f"Segments: {found.found_by}. Descriptions: {found.described_by}.")
        for number, one in enumerate(found.segments, start=1):
            typer.echo(f"{number}: {one.line}")


def _other_images(folder: Path, image_id: int | str, name: str) -> list[PanopticImage]:
    """What a folder of COCO panoptic files holds of other pictures."""
    from fastregion.models.coco_panoptic import PanopticFiles

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--panoptic: {str(folder)!r} is a file")
    file = folder / _PANOPTIC
    found = PanopticFiles(file) if file.exists() else ()
    others = []
    for one in found:
        if one.image_id != image_id:
            others.append(one)
        elif one.file_name != name:  # a.jpg and a.png would have one PNG
            raise ValueError(
                f"--panoptic: {str(folder)!r} holds {one.file_name!r} as image {image_id!r}; "
                f"rename {name!r} or take another folder"
            )
    return others
