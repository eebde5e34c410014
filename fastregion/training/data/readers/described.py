r"""Our own rows, and all others that tell a picture, masks and texts by columns.

One line of JSON for each picture or region; paths are relative to the file:

    {"image": "a.jpg", "mask": "a_0.png", "caption": "A red cup."}
    {"image": "a.jpg", "mask": [40, 60, 220, 300], "caption": ["A red cup.", "The cup."]}
    {"image": "a.jpg", "masks": [RLE, [[0, 0], [9, 0], [9, 9]]], "captions": ["A cup.", "A pen."]}
    {"image": "a.jpg", "masks": [RLE, RLE], "conversations": [
        {"from": "human", "value": "Which is larger, <Prompt0> or <Prompt1>?"},
        {"from": "gpt", "value": "<Prompt0>"}]}

====================================  =========================================================
column                                what stands there
====================================  =========================================================
``image``                             a picture (:mod:`fastregion.training.data.cells`)
``mask`` or ``masks``                 a mask, or a list of them; none: the dialogue is about the
                                      picture
``caption`` or ``captions``           a text, or a list of equally good ones; or one of these for
                                      each mask
``conversations``                     a dialogue, in place of captions
``id``                                a number or a text, different in every row
``category_id``, ``category_ids``     COCO's category of the region, of each region
``class_name``, ``class_names``       what the region, each region, is called
====================================  =========================================================

DAM-style rows are of this kind; there the mask's column may be called ``mask_rle``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fastregion.regions import Region
from fastregion.training.data.cells import (
    Picture,
    captions_of,
    listed,
    region_of,
    text_of,
    turns_of,
)
from fastregion.training.data.record import BadRow, Record

__all__ = ["COLUMNS", "described_record", "lazy_regions"]

COLUMNS = (
    *("image", "mask", "masks", "caption", "captions", "conversations", "id"),
    *("category_id", "category_ids", "class_name", "class_names"),
)
_OTHER_NAMES = {"mask_rle": "mask", "mask_rles": "masks"}


def described_record(
    row: Mapping[str, Any], row_id: str, images: Path, masks: Path, columns: Mapping[str, str]
) -> Record:
    """The record of a row.

    Args:
        row: see this module.
        row_id: of a row without ``id``.
        images: the folder of its picture.
        masks: the folder of its masks.
        columns: the row's own names, by ours.

    Raises:
        BadRow: a column that is missing or holds something else.
    """
    cells = {_OTHER_NAMES.get(name, name): cell for name, cell in row.items()}
    for ours, theirs in columns.items():
        if theirs not in row:
            raise BadRow(f"{ours}: the row has no column {theirs!r}, it has {', '.join(row)}")
        cells[ours] = row[theirs]
    cells = {name: cell for name, cell in cells.items() if name in COLUMNS and cell is not None}
    if "image" not in cells:
        raise BadRow(f"image: is missing, the row has {', '.join(row) or 'no columns'}")
    picture = Picture.of(cells["image"], images)
    places = _one_or_each(cells, "mask", "masks") or []
    captions = _captions(cells, len(places))
    if not captions and "conversations" not in cells:
        raise BadRow("caption: is missing; expected caption, captions or conversations", "no text")
    if captions and "conversations" in cells:
        raise BadRow("conversations: expected either these or captions, got both")
    category_ids = _for_each(cells, "category_id", "category_ids", len(places))
    if not all(isinstance(number, int) for number in category_ids):
        raise BadRow(f"category_id: expected integers, got {category_ids}")
    class_names = _for_each(cells, "class_name", "class_names", len(places))
    return Record(
        id=_id(cells.get("id"), row_id),
        image=picture.read,
        size=picture.size,
        regions=partial(lazy_regions, picture, tuple(places), masks),
        num_regions=len(places),
        turns=turns_of(cells["conversations"]) if "conversations" in cells else (),
        captions=captions,
        category_ids=tuple(category_ids),
        class_names=tuple(text_of(name, "class_name") for name in class_names),
    )


def lazy_regions(picture: Picture, places: tuple[Any, ...], folder: Path) -> tuple[Region, ...]:
    """The regions of a row's masks, bound to its picture; BadRow names the mask of several."""
    if not places:
        return ()
    size = picture.size()
    regions = []
    for number, place in enumerate(places):
        try:
            regions.append(region_of(place, size, folder))
        except BadRow as error:
            if len(places) == 1:
                raise
            raise BadRow(f"masks[{number}]: {error}", error.kind) from error
    return tuple(regions)


def _id(cell: Any, row_id: str) -> str:
    if cell is None:
        return row_id
    if isinstance(cell, str | int) and not isinstance(cell, bool):
        return str(cell)
    raise BadRow(f"id: expected a number or text, got {type(cell).__name__}")


def _captions(cells: Mapping[str, Any], count: int) -> tuple[tuple[str, ...], ...]:
    if "caption" in cells and "captions" not in cells and count == 1:
        return (captions_of(cells["caption"]),)
    found = _for_each(cells, "caption", "captions", count)
    several = len(found) > 1
    return tuple(
        captions_of(cell, f"captions[{number}]" if several else "caption")
        for number, cell in enumerate(found)
    )


def _for_each(cells: Mapping[str, Any], single: str, plural: str, count: int) -> list[Any]:
    """One cell for each of ``count`` masks; none where the row does not say."""
    found = _one_or_each(cells, single, plural)
    if found is None:
        return []
    if not count:
        raise BadRow(f"mask: is missing, there is none for {single} to be about")
    if len(found) != count:
        raise BadRow(f"{plural}: expected one for each of {count} masks, got {len(found)}")
    return found


def _one_or_each(cells: Mapping[str, Any], single: str, plural: str) -> list[Any] | None:
    """The cells of one column or the other."""
    if single in cells and plural in cells:
        raise BadRow(f"{plural}: expected either {single} or {plural}, got both")
    if plural in cells:
        found = listed(cells[plural])
        if not isinstance(found, list | tuple):
            raise BadRow(f"{plural}: expected a list, got {type(found).__name__}")
        if not found:
            raise BadRow(f"{plural}: is an empty list")
        return list(found)
    if single not in cells:
        return None
    found = listed(cells[single])
    # A list of RLEs under the name of one; lists of numbers are a box or a polygon.
    if isinstance(found, list) and found and all(isinstance(cell, Mapping) for cell in found):
        return found
    return [found]
