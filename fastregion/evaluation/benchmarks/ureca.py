"""URECA's test format: captions of masks, compared with references by metrics and by CLAIR.

The published test set is not released. Data of the same task is read from ``test.jsonl``: rows with
``image``, ``segmentation`` (a COCO RLE or polygons) and ``caption``, the reference; optionally
``id``. Pictures as ``image`` says, here or in ``images``.

Verified: the metrics, each by its own tests.
Not verified: the protocol of the published numbers. METEOR above ROUGE speaks for NLTK's METEOR,
which is taken; the encoder of BERTScore must be given as a folder; the judge of CLAIR is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from fastregion.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    JudgeCall,
    Prediction,
    Query,
    Scores,
)
from fastregion.evaluation.benchmarks.caption_metrics import caption_scores, with_entry
from fastregion.evaluation.benchmarks.clair_calls import (
    CLAIR_PART,
    clair_call,
    clair_readable,
    with_clair,
)
from fastregion.evaluation.benchmarks.notes import predicted_items
from fastregion.evaluation.benchmarks.rows import Row, find_file, picture_name, read_rows
from fastregion.evaluation.benchmarks.wording import Wording

__all__ = ["Ureca"]

_METRICS = (
    *("BLEU@1", "BLEU@2", "BLEU@3", "BLEU@4"),
    *("ROUGE-L (rouge_score)", "METEOR (NLTK)"),
)
_BERTSCORE = "BERTScore"


@dataclass(frozen=True, kw_only=True)
class Ureca(Benchmark):
    """See the module.

    Attributes:
        encoder: a folder with the encoder of BERTScore; without it, that is left out.
        layer: of the encoder, whose vectors BERTScore compares.
    """

    name: ClassVar[str] = "ureca"
    summary: ClassVar[str] = "captions of masks at every level of detail"
    version: ClassVar[int] = 1
    judged: ClassVar[bool] = True
    template: ClassVar[str | None] = "ureca.txt"

    encoder: Path | None = None
    layer: int = 9  # that of bert-base-uncased

    def items(self, data: Path) -> list[Item]:
        """The masks, in the order of the file."""
        rows = read_rows(find_file(data, "test.jsonl"))
        return [_item(data, index, row) for index, row in enumerate(rows)]

    def query(self, item: Item, model_type: str) -> Query:
        """The model's own description prompt."""
        return Query()

    def judge_calls(
        self, item: Item, prediction: Prediction, wording: str, data: Path
    ) -> list[JudgeCall]:
        """CLAIR."""
        parts = Wording(wording, CLAIR_PART)
        return [clair_call(item.id, parts, prediction.text, [item.row["caption"]])]

    def readable(self, item: Item, key: str, answer: str) -> bool:
        """Whether it has a number."""
        return clair_readable(answer)

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """The metrics, and CLAIR over the items that have it."""
        notes: list[str] = []
        said = predicted_items(items, predictions, notes)
        scores = caption_scores(
            _METRICS,
            {item.id: predictions[item.id].text for item in said},
            {item.id: (item.row["caption"],) for item in said},
            notes,
        )
        return with_clair(self._with_bertscore(scores, said, predictions), said, answers)

    def _with_bertscore(
        self, scores: Scores, items: Sequence[Item], predictions: Mapping[str, Prediction]
    ) -> Scores:
        if self.encoder is None:
            note = f"{_BERTSCORE} is left out: it needs the folder of an encoder (encoder=FOLDER)"
            return replace(scores, notes=(*scores.notes, note))
        if not items:
            return scores
        from fastregion.evaluation.metrics.bertscore import BertScore
        from fastregion.evaluation.metrics.encoder import TextEncoder

        metric = BertScore(encoder=TextEncoder(self.encoder), layer=self.layer)
        captions = [predictions[item.id].text for item in items]
        result = metric(captions, [[item.row["caption"]] for item in items])["f1"]
        values = {item.id: value for item, value in zip(items, result.items, strict=True)}
        return with_entry(scores, _BERTSCORE, result.corpus, values)


def _item(data: Path, index: int, row: Row) -> Item:
    segmentation = row.any("segmentation")
    if not isinstance(segmentation, (list, Mapping)) or not segmentation:
        raise row.error("segmentation", "expected an RLE or polygons")
    return Item(
        id=row.name("id") if "id" in row else str(index),
        image=picture_name(data, row.text("image"), "", "images"),
        masks=({"segmentation": segmentation},),
        row={"caption": row.text("caption")},
    )
