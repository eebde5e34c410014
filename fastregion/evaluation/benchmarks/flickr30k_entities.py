"""Flickr30k Entities: a phrase for each box of a picture, compared with those of its captions.

Data: ``Sentences/ID.txt`` (five captions whose phrases are marked ``[/EN#CHAIN/TYPE words]``),
``Annotations/ID.xml`` (boxes by chain) and a list of the pictures, ``test.txt``; pictures in
``images`` or ``flickr30k-images``. An item is a box, its references are the different phrases of
its chains.

Verified: the reading of both formats, on files written after their description; the metrics, each
by its own tests.
Not verified: which split DAM was measured on, how it treats chains with several boxes or phrases
(here: every box is an item, with all phrases as references), and what it was asked.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastregion.evaluation.benchmarks.base import Benchmark, Item, Prediction, Query, Scores
from fastregion.evaluation.benchmarks.caption_metrics import COCO_METRICS, caption_scores
from fastregion.evaluation.benchmarks.decoding import decoding
from fastregion.evaluation.benchmarks.notes import predicted_items
from fastregion.evaluation.benchmarks.rows import find_file, picture_name

__all__ = ["Flickr30kEntities"]

_PHRASE = re.compile(r"\[/EN#(\d+)((?:/\w+)+) ([^\]]+)\]")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MAX_BYTES = 1 << 20  # of a file; real ones have a few thousand
_PROMPT = "Describe <Prompt0> in a short phrase."


@dataclass(frozen=True, kw_only=True)
class Flickr30kEntities(Benchmark):
    """See the module.

    Attributes:
        split: the name, without suffix, of the list of pictures.
    """

    name: ClassVar[str] = "flickr30k-entities"
    summary: ClassVar[str] = "a phrase for each box of Flickr30k Entities"
    version: ClassVar[int] = 1

    split: str = "test"

    def items(self, data: Path) -> list[Item]:
        """The boxes, picture by picture."""
        names = _read(find_file(data, f"{self.split}.txt")).split()
        items = []
        for name in names:
            phrases = _phrases(find_file(data, f"Sentences/{name}.txt"))
            boxes = _boxes(find_file(data, f"Annotations/{name}.xml"))
            picture = picture_name(data, f"{name}.jpg", "images", "flickr30k-images", "")
            for index, (chains, box) in enumerate(boxes):
                references = [phrase for chain in chains for phrase in phrases.get(chain, ())]
                if references:
                    items.append(
                        Item(
                            id=f"{name}-{index}",
                            image=picture,
                            masks=(box,),
                            row={"references": tuple(dict.fromkeys(references))},
                        )
                    )
        return items

    def query(self, item: Item, model_type: str) -> Query:
        """For a phrase."""
        return Query(prompt=_PROMPT, options=decoding(model_type))

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """The metrics of COCO's caption evaluation."""
        notes: list[str] = []
        said = predicted_items(items, predictions, notes)
        return caption_scores(
            COCO_METRICS,
            {item.id: predictions[item.id].text for item in said},
            {item.id: item.row["references"] for item in said},
            notes,
        )


def _read(file: Path) -> str:
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"data: {str(file)!r}: the file is larger than {_MAX_BYTES >> 20} MiB")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"data: {str(file)!r}: not UTF-8 ({error})") from error


def _phrases(file: Path) -> dict[str, list[str]]:
    """The phrases of each chain; those of nothing to be seen are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for chain, types, words in _PHRASE.findall(_read(file)):
        if "notvisual" not in types.split("/"):
            found[chain].append(words)
    return found


def _boxes(file: Path) -> list[tuple[list[str], tuple[int, int, int, int]]]:
    """The boxes (x0, y0, x1, y1), ends exclusive, with the chains they belong to."""
    try:
        root = ElementTree.fromstring(_read(file))
    except ElementTree.ParseError as error:
        raise ValueError(f"data: {str(file)!r}: not valid XML ({error})") from error
    found = []
    for index, thing in enumerate(root.iter("object")):
        box = thing.find("bndbox")
        if box is None:  # a scene, or nothing to be seen
            continue
        try:
            x0, y0, x1, y1 = (int(box.findtext(corner, "")) for corner in _CORNERS)
        except ValueError as error:
            raise ValueError(
                f"data: {str(file)!r}: object {index}: bndbox must have the integers "
                f"{', '.join(_CORNERS)}"
            ) from error
        chains = [name.text or "" for name in thing.findall("name")]
        # Pixels are counted from 1 and the last one belongs to the box.
        found.append((chains, (max(x0 - 1, 0), max(y0 - 1, 0), x1, y1)))
    return found
