"""LVIS and PACO: the category of an object, or of a part of one, in a word or a phrase.

Data: ``lvis_val_1k_category.json`` or ``paco_val_1k_category.json``, here or in ``annotations``;
pictures (COCO 2017) in ``images``, ``val2017`` or ``train2017``.

    similarity      cosine of sentence embeddings of prediction and category
    semantic IoU    shared words over all words of the two

Verified: both ways of cleaning texts and their semantic IoU, against vectors of the published
functions (in the tests of :mod:`fastregion.evaluation.metrics`).
Not verified: what DAM and GAR were asked; the similarity's numbers, whose encoder
(``all-MiniLM-L6-v2``) must be given as a folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from fastregion.evaluation.benchmarks.base import Benchmark, Item, Prediction, Query, Scores
from fastregion.evaluation.benchmarks.decoding import decoding
from fastregion.evaluation.benchmarks.keyword_metrics import keyword_scores
from fastregion.evaluation.benchmarks.notes import count_note, predicted_items
from fastregion.evaluation.benchmarks.rows import Row, find_file, picture_name, read_rows

if TYPE_CHECKING:
    from fastregion.evaluation.metrics.similarity import Variant

__all__ = ["LvisKeywords", "PacoKeywords"]

_PROMPT = "What is the category of <Prompt0>? Using only one word or phrase."
_PART_PROMPT = f"{_PROMPT} If it is a part of an object, answer in the form object:part."
_VARIANTS = ("osprey", "videorefer")


@dataclass(frozen=True, kw_only=True)
class LvisKeywords(Benchmark):
    """Objects of LVIS.

    Attributes:
        variant: whose way of cleaning texts: ``"osprey"`` or ``"videorefer"``.
        encoder: a folder with a sentence encoder; without it, similarity is left out.
    """

    name: ClassVar[str] = "lvis-keywords"
    summary: ClassVar[str] = "categories of objects of LVIS, in a word or a phrase"
    version: ClassVar[int] = 1

    file: ClassVar[str] = "lvis_val_1k_category.json"
    prompt: ClassVar[str] = _PROMPT
    published_count: ClassVar[int] = 4004

    variant: str = "osprey"
    encoder: Path | None = None

    def __post_init__(self) -> None:
        if self.variant not in _VARIANTS:
            raise ValueError(f"variant: expected one of {_VARIANTS}, got {self.variant!r}")

    def items(self, data: Path) -> list[Item]:
        """The objects, picture by picture."""
        rows = read_rows(find_file(data, self.file, f"annotations/{self.file}"))
        return [item for index, row in enumerate(rows) for item in _items(data, index, row)]

    def query(self, item: Item, model_type: str) -> Query:
        """For the category."""
        return Query(prompt=self.prompt, options=decoding(model_type))

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """Means over all objects, in per cent."""
        notes: list[str] = []
        said = predicted_items(items, predictions, notes)
        count_note(items, self.published_count, "objects", notes)
        return keyword_scores(
            {item.id: predictions[item.id].text for item in said},
            {item.id: item.row["category"] for item in said},
            variant=cast("Variant", self.variant),  # as checked above
            encoder=self.encoder,
            notes=notes,
        )


@dataclass(frozen=True, kw_only=True)
class PacoKeywords(LvisKeywords):
    """Objects and parts of PACO."""

    name: ClassVar[str] = "paco-keywords"
    summary: ClassVar[str] = "categories of objects and parts of PACO, in a word or a phrase"
    version: ClassVar[int] = 1

    file: ClassVar[str] = "paco_val_1k_category.json"
    prompt: ClassVar[str] = _PART_PROMPT
    published_count: ClassVar[int] = 4263


def _items(data: Path, index: int, row: Row) -> list[Item]:
    picture = picture_name(data, row.text("file_name"), "images", "val2017", "train2017", "")
    categories, annotations = row.texts("categories"), row.rows("annotations")
    if len(categories) != len(annotations):
        raise row.error(
            "annotations",
            f"expected {len(categories)}, as many as categories, got {len(annotations)}",
        )
    items = []
    for place, (category, annotation) in enumerate(zip(categories, annotations, strict=True)):
        segmentation = annotation.any("segmentation")
        if not isinstance(segmentation, (list, Mapping)) or not segmentation:
            raise annotation.error("segmentation", "expected polygons or an RLE")
        items.append(
            Item(
                id=f"{index}-{place}",
                image=picture,
                masks=({"segmentation": segmentation},),
                row={"category": category},
            )
        )
    return items
