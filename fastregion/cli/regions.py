"""Regions on a command line: ``--mask``, ``--box``, ``--point``, ``--rle``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastregion.cli.errors import bad_input

if TYPE_CHECKING:
    from fastregion.regions import Region

__all__ = ["Boxes", "Masks", "Points", "Rles", "read_regions"]

_MAX_RLE_BYTES = 64 << 20

Masks = Annotated[
    list[Path] | None,
    typer.Option(
        "--mask",
        metavar="M.png",
        help="Picture of the image's size; what is not black is the region. Repeatable.",
    ),
]
Boxes = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="X0,Y0,X1,Y1",
        help="Box in pixels, x1 and y1 excluded. Repeatable.",
    ),
]
Points = Annotated[
    list[str] | None,
    typer.Option(
        "--point",
        metavar="X,Y[;X,Y...]",
        help="A disc around a point; several points after each other make one region. Repeatable.",
    ),
]
Rles = Annotated[
    list[Path] | None,
    typer.Option(
        "--rle",
        metavar="FILE",
        help="JSON file of COCO RLEs, COCO annotations or SAM records, one or a list. Repeatable.",
    ),
]


def read_regions(
    size: tuple[int, int],
    masks: list[Path] | None,
    boxes: list[str] | None,
    points: list[str] | None,
    rles: list[Path] | None,
) -> list[Region]:
    """The regions asked for: masks first, then boxes, points and RLE files, each as given.

    Args:
        size: height and width of the image.
        masks: values of ``--mask``.
        boxes: values of ``--box``.
        points: values of ``--point``.
        rles: values of ``--rle``.
    """
    if not (masks or boxes or points or rles):
        raise ValueError("region: give at least one --mask, --box, --point or --rle")
    from fastregion.json_files import read_json_file
    from fastregion.regions import Region, as_regions

    regions: list[Region] = []
    for mask in masks or ():
        with bad_input(f"--mask {mask}"):
            regions += as_regions(mask, size)
    for text in boxes or ():
        with bad_input(f"--box {text}"):
            regions.append(Region.from_box(_numbers(text, "x0,y0,x1,y1"), size))
    for text in points or ():
        with bad_input(f"--point {text}"):
            parts = text.replace(";", " ").split() or [text]
            regions.append(Region.from_points([_numbers(part, "x,y") for part in parts], size))
    for file in rles or ():
        with bad_input(f"--rle {file}"):
            found = as_regions(read_json_file(file, _MAX_RLE_BYTES), size)
            if not found:
                raise ValueError("holds no region")
            regions += found
    return regions


def _numbers(text: str, form: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != len(form.split(",")) or not all(math.isfinite(n) for n in numbers):
        raise ValueError(f"expected {form}, got {text!r}")
    return numbers
