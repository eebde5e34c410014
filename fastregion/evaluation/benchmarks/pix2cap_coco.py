"""Pix2Cap-COCO: panoptic segmentation with a caption for every segment.

Data: ``pix2cap_coco_val.json`` (COCO panoptic, with ``description``), here or in ``annotations``,
the PNGs in ``panoptic_val2017`` beside it, pictures in ``val2017``. The captioner finds the regions
(``segment``); an item is a picture, its prediction the segments with category and caption.

Verified: the reading of annotations and predictions, on files of the published functions; the
numbers, in both modes of the mAP, in the tests of :mod:`fastregion.evaluation.metrics`.
Not verified: numbers of the published weights; SPICE, which needs models that are not in PyPI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from fastregion.evaluation.benchmarks.base import (
    Answered,
    Benchmark,
    Describer,
    Item,
    Picture,
    Prediction,
    Query,
    Scores,
)
from fastregion.evaluation.benchmarks.notes import predicted_items
from fastregion.evaluation.benchmarks.rows import find_file, picture_name
from fastregion.models.categories import Category
from fastregion.models.coco_panoptic import PanopticFiles, PanopticImage, write_panoptic
from fastregion.models.segment import Segment
from fastregion.regions import Region

__all__ = ["Pix2CapCoco", "panoptic_pairs"]

_CAPTIONS = {"BLEU@4": "bleu_4", "CIDEr-D": "cider", "ROUGE-L": "rouge_l"}
_FILE, _PNGS = "pix2cap_coco_val.json", "panoptic_val2017"


@dataclass(frozen=True, kw_only=True)
class Pix2CapCoco(Benchmark):
    """See the module.

    Attributes:
        released: compute the mAP as the published code does, which compares every word of a
            reference with single letters of the prediction; by default words with words.
    """

    name: ClassVar[str] = "pix2cap-coco"
    summary: ClassVar[str] = "panoptic segmentation with a caption for every segment"
    version: ClassVar[int] = 1

    released: bool = False

    def items(self, data: Path) -> list[Item]:
        """The pictures, in the order of the file."""
        file = find_file(data, _FILE, f"annotations/{_FILE}")
        pngs = find_file(data, _PNGS, f"annotations/{_PNGS}")
        truth = PanopticFiles(file, pngs)
        return [
            Item(
                id=str(image_id),
                image=picture_name(
                    data, truth.file_name(image_id), "val2017", "images/val2017", "images"
                ),
                row={"image_id": image_id, "annotations": str(file), "pngs": str(pngs)},
            )
            for image_id in truth.image_ids
        ]

    def query(self, item: Item, model_type: str) -> Query:
        """Nothing is said: the captioner finds the regions."""
        return Query()

    def predict(
        self, describer: Describer, picture: Picture, items: Sequence[Item], query: Query
    ) -> list[Answered]:
        """Segment the picture."""
        segment = getattr(describer, "segment", None)
        if segment is None:
            raise NotImplementedError(
                f"model: {describer.model_id} finds no regions, which {self.name} asks for"
            )
        found = [entry.to_dict() for entry in segment(picture)]
        return [Answered(text="", extra={"segments": found}) for _ in items]

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """The measures of the paper, in per cent; reads the PNGs of the annotations."""
        from fastregion.evaluation.metrics.common import MetricUnavailable
        from fastregion.evaluation.metrics.panoptic import caption_map, panoptic_quality

        notes: list[str] = []
        said = predicted_items(items, predictions, notes)
        if not said:
            return Scores(table={}, notes=tuple(notes))
        table: dict[str, float] = {}
        with TemporaryDirectory() as folder:
            files = _files(Path(folder) / "predictions.json", said, predictions)
            try:
                found = caption_map(*files, mode="released" if self.released else "words")
            except MetricUnavailable as error:
                notes.append(f"mAP is left out: {error}")
            else:
                table["mAP"] = 100 * found.map
                how = "as the published code computes it" if self.released else "word by word"
                notes.append(f"METEOR of the mAP is taken {how}")
            quality = panoptic_quality(*files)
        for entry, name in _CAPTIONS.items():
            table[entry] = 100 * quality.captions[name]
        table |= {"PQ": 100 * quality.pq, "SQ": 100 * quality.sq, "RQ": 100 * quality.rq}
        return Scores(table=table, items={item.id: {} for item in said}, notes=tuple(notes))

    def recorded(
        self, data: Path, record: Path
    ) -> tuple[list[Prediction], dict[tuple[str, str], str]]:
        """Read predictions in COCO's panoptic format, with their PNGs beside the file."""
        predictions = [
            Prediction(
                item=str(image.image_id),
                text="",
                model=record.stem,
                extra={"segments": [segment.to_dict() for segment in image.segments]},
            )
            for image in PanopticFiles(record)
        ]
        return predictions, {}


def panoptic_pairs(
    items: Sequence[Item], predictions: Mapping[str, Prediction]
) -> Iterator[tuple[PanopticImage, PanopticImage]]:
    """Annotation and prediction of each picture, one after the other."""
    files: dict[tuple[str, str], PanopticFiles] = {}
    for item in items:
        place = item.row["annotations"], item.row["pngs"]
        if place not in files:
            files[place] = PanopticFiles(*place)
        truth = files[place].read(item.row["image_id"])
        segments = predictions[item.id].extra["segments"]
        yield truth, replace(truth, segments=tuple(map(_segment, segments)))


def _files(
    predicted: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]
) -> tuple[PanopticFiles, PanopticFiles]:
    """The annotations of these items as published, with the areas that they state.

    And the predictions, which are written to a file and read picture by picture.
    """
    write_panoptic(predicted, (found for _, found in panoptic_pairs(items, predictions)))
    place = items[0].row["annotations"], items[0].row["pngs"]  # of all
    truth = PanopticFiles(*place).only(item.row["image_id"] for item in items)
    return truth, PanopticFiles(predicted)


def _segment(values: Mapping[str, Any]) -> Segment:
    """The inverse of ``Segment.to_dict``."""
    category = Category(values["category_id"], values["category"], isthing=values["isthing"])
    return Segment.of(
        Region.from_rle(values["rle"]),
        id=values["id"],
        category=category,
        caption=values["caption"],
        score=values.get("score"),
    )
