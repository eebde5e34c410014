"""Pictures, masks and rows that the tests of training data write."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastregion.regions import rle_encode
from fastregion.training.data import DataSource, Record, Records, open_source

HEIGHT, WIDTH = SIZE = (30, 40)


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def mask(number: int = 0) -> np.ndarray:
    """A box of 10 x (8 + number) pixels."""
    found = np.zeros(SIZE, bool)
    found[2 + number : 12 + number, 3 : 11 + number] = True
    return found


def rle(number: int = 0) -> dict[str, Any]:
    return dict(rle_encode(mask(number)))


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()


def encoded(values: np.ndarray) -> str:
    return "data:base64," + base64.b64encode(png(values)).decode()


def write_picture(file: Path, seed: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png(pixels(seed)))


def write_mask(file: Path, number: int = 0) -> None:
    file.write_bytes(png(mask(number).astype(np.uint8) * 255))


def write_lines(file: Path, rows: Sequence[Mapping[str, Any] | str]) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def dialogue(*answers: str) -> list[dict[str, str]]:
    turns = []
    for answer in answers:
        turns += [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": answer}]
    return turns


def opened(folder: Path, **source: Any) -> Records:
    return open_source(DataSource(**source), folder)


def check_record(record: Record, *numbers: int, seed: int = 0) -> None:
    """A record of the picture ``seed`` with the masks ``numbers``."""
    assert np.array_equal(record.image(), pixels(seed))
    assert record.size is not None
    assert record.size() == SIZE
    assert record.num_regions == len(numbers)
    masks = [region.mask for region in record.regions()]
    assert len(masks) == len(numbers)
    for found, number in zip(masks, numbers, strict=True):
        assert np.array_equal(found, mask(number))
