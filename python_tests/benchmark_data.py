"""Small invented data folders in the formats of published benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastregion.evaluation.templates import read_template
from fastregion.regions import rle_encode

HEIGHT, WIDTH = 60, 80
SIZE = (HEIGHT, WIDTH)


def box_rle(x0: int, y0: int, x1: int, y1: int) -> dict[str, Any]:
    """The COCO RLE of a box, ends exclusive, in a picture of ``SIZE``."""
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    rle = rle_encode(mask)
    counts = rle["counts"]
    return {"size": list(SIZE), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def write_json(file: Path, values: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values), encoding="utf-8")
    return file


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_picture(file: Path, color: tuple[int, int, int] = (200, 100, 50)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), color).save(file)
    return file


def changed(file: Path, *place: Any, value: Any = None) -> None:
    """Put another value at a place of a JSON file; None takes it out."""
    values = json.loads(file.read_text(encoding="utf-8"))
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    if value is None:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    write_json(file, values)


def judge_template(name: str) -> str:
    """The text of the package's template file."""
    template = read_template(name)
    assert template is not None
    return template.text
