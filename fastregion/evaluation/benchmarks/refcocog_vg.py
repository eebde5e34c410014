"""RefCOCOg and Visual Genome: short captions of boxes, compared with those of annotators.

Data: ``finetune_refcocog_val_captions.json`` or ``test_caption.json``, in COCO's format with one
entry of ``images`` a region; here or in ``annotations``. Pictures in ``images``.

Verified: the metrics, each by its own tests; that results restrict the corpus to their ids.
Not verified: what each published model was asked; published numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastregion.evaluation.benchmarks.base import Benchmark, Item, Prediction, Query, Scores
from fastregion.evaluation.benchmarks.caption_metrics import COCO_METRICS, caption_scores
from fastregion.evaluation.benchmarks.decoding import decoding
from fastregion.evaluation.benchmarks.notes import predicted_items
from fastregion.evaluation.benchmarks.rows import (
    Row,
    find_file,
    picture_name,
    read_object,
    read_rows,
)

__all__ = ["RefCocoG", "VisualGenome"]


@dataclass(frozen=True, kw_only=True)
class RefCocoG(Benchmark):
    """The validation set of RefCOCOg."""

    name: ClassVar[str] = "refcocog"
    summary: ClassVar[str] = "short captions of boxes of RefCOCOg"
    version: ClassVar[int] = 1

    file: ClassVar[str] = "finetune_refcocog_val_captions.json"

    def items(self, data: Path) -> list[Item]:
        """The regions, in the order of ``images``; their captions are the references."""
        coco = read_object(find_file(data, self.file, f"annotations/{self.file}"))
        images = {row.integer("id"): row for row in coco.rows("images")}
        captions: dict[int, list[Row]] = defaultdict(list)
        for row in coco.rows("annotations"):
            if (image_id := row.integer("image_id")) not in images:
                raise row.error("image_id", f"no image has the id {image_id}")
            captions[image_id].append(row)
        return [_item(data, row, captions[key]) for key, row in images.items() if captions[key]]

    def query(self, item: Item, model_type: str) -> Query:
        """The model's own description prompt."""
        return Query(options=decoding(model_type))

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """The metrics of COCO's caption evaluation, over the regions with a prediction."""
        notes: list[str] = []
        said = predicted_items(items, predictions, notes)
        return caption_scores(
            COCO_METRICS,
            {item.id: predictions[item.id].text for item in said},
            {item.id: item.row["references"] for item in said},
            notes,
        )

    def recorded(
        self, data: Path, record: Path
    ) -> tuple[list[Prediction], dict[tuple[str, str], str]]:
        """Read results in COCO's format: a list of ``image_id`` and ``caption``."""
        known = {item.id for item in self.items(data)}
        predictions = []
        for row in read_rows(record, "record"):
            if (key := row.name("image_id")) not in known:
                raise row.error("image_id", f"is of no item of the data, got {key}")
            predictions.append(Prediction(item=key, text=row.text("caption"), model=record.stem))
        return predictions, {}


@dataclass(frozen=True, kw_only=True)
class VisualGenome(RefCocoG):
    """The test set of Visual Genome."""

    name: ClassVar[str] = "visual-genome"
    summary: ClassVar[str] = "short captions of boxes of Visual Genome"
    version: ClassVar[int] = 1

    file: ClassVar[str] = "test_caption.json"


def _item(data: Path, image: Row, captions: Sequence[Row]) -> Item:
    return Item(
        id=image.name("id"),
        image=picture_name(data, image.text("file_name"), "images", ""),
        masks=(captions[0].clipped_box("bbox", image.size()),),
        row={"references": tuple(row.text("caption") for row in captions)},
    )
