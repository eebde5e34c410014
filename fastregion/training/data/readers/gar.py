"""GAR's rows: a picture, a dialogue, and the masks that it is about.

==================  ============================================================================
column              what stands there
==================  ============================================================================
``image``           a decoded picture, ``"data:base64,..."`` text, or a path
``conversations``   ``[{"from": "human" | "gpt", "value": text}, ...]``; without a region's name
                    (``<Prompt0>``) in it, the answers are the captions of the masks in turn
``mask_rle``        one COCO RLE, a list of them, or null: the dialogue is about the picture
==================  ============================================================================

Other columns are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fastregion.images import RgbImage
from fastregion.training.data.cells import Picture, listed, turns_of
from fastregion.training.data.readers.described import lazy_regions
from fastregion.training.data.record import BadRow, Record

__all__ = ["gar_record"]

_SMALLEST_SIDE = 10  # pixels


def gar_record(row: Mapping[str, Any], row_id: str, images: Path) -> Record:
    """The record of a row.

    Args:
        row: see this module.
        row_id: what it is called.
        images: the folder of its picture.

    Raises:
        BadRow: a column that is missing or holds something else.
    """
    for name in ("image", "conversations"):
        if row.get(name) is None:
            raise BadRow(f"{name}: is missing, the row has {', '.join(row) or 'no columns'}")
    rles = listed(row.get("mask_rle"))
    places = () if rles is None else tuple(rles) if isinstance(rles, list) else (rles,)
    for place in places:
        if not isinstance(place, Mapping) or "counts" not in place:
            raise BadRow(
                f"mask_rle: expected COCO RLEs, got {type(place).__name__}", "malformed mask"
            )
    picture = Picture.of(row["image"], images)
    return Record(
        id=row_id,
        image=partial(_large_enough, picture),
        size=partial(_size, picture),
        regions=partial(lazy_regions, picture, places, images),
        num_regions=len(places),
        turns=turns_of(row["conversations"]),
    )


def _size(picture: Picture) -> tuple[int, int]:
    size = picture.size()
    if min(size) < _SMALLEST_SIDE:
        raise BadRow(
            f"image: must be at least {_SMALLEST_SIDE} pixels wide and high, got {size}",
            "unreadable picture",
        )
    return size


def _large_enough(picture: Picture) -> RgbImage:
    _size(picture)
    return picture.read()
