"""Ref-L4, the part from Objects365: long descriptions, judged as they are and in short.

Data: rows of the published dataset as JSON lines, ``ref-l4-val.jsonl`` and ``ref-l4-test.jsonl``
(one is enough): ``id``, ``file_name``, ``width``, ``height``, ``bbox`` (x, y, width, height) and
``caption``. Only rows with "objects365" in ``file_name`` are read. Pictures in ``images``.

    long     CLAIR of the description and the reference
    short    BLEU, METEOR, ROUGE-L, CIDEr, SPICE after a judge has shortened both, each by itself

Verified: the metrics, each by its own tests; that no message about one of the two texts holds the
other.
Not verified: DAM's wording for shortening (unpublished; ours), whether it used boxes or masks
(here: boxes), which order of BLEU it prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fastregion.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    JudgeCall,
    Prediction,
    Query,
    Scores,
)
from fastregion.evaluation.benchmarks.caption_metrics import COCO_METRICS, caption_scores
from fastregion.evaluation.benchmarks.clair_calls import (
    CLAIR_PART,
    clair_call,
    clair_readable,
    with_clair,
)
from fastregion.evaluation.benchmarks.decoding import decoding
from fastregion.evaluation.benchmarks.notes import listed, predicted_items
from fastregion.evaluation.benchmarks.rows import Row, find_file, picture_name, read_rows
from fastregion.evaluation.benchmarks.wording import Wording

__all__ = ["RefL4"]

_FILES = ("ref-l4-val.jsonl", "ref-l4-test.jsonl")
_SOURCE = "objects365"
_SHORT = ("short prediction", "short reference")
_PARTS = {"summary_system": (), "summary": ("description",), **CLAIR_PART}
_OPTIONS = {"temperature": 0.0}


@dataclass(frozen=True, kw_only=True)
class RefL4(Benchmark):
    """See the module."""

    name: ClassVar[str] = "ref-l4"
    summary: ClassVar[str] = "long descriptions of boxes, judged as they are and in short"
    version: ClassVar[int] = 1
    judged: ClassVar[bool] = True
    template: ClassVar[str | None] = "ref_l4.txt"

    def items(self, data: Path) -> list[Item]:
        """The regions of Objects365 pictures, in the order of the files that there are."""
        find_file(data, *_FILES)
        return [
            _item(data, row)
            for name in _FILES
            if (data / name).is_file()
            for row in read_rows(data / name)
            if _SOURCE in row.text("file_name")
        ]

    def query(self, item: Item, model_type: str) -> Query:
        """The model's own description prompt."""
        return Query(options=decoding(model_type))

    def judge_calls(
        self, item: Item, prediction: Prediction, wording: str, data: Path
    ) -> list[JudgeCall]:
        """CLAIR, and a shorter text for prediction and reference."""
        parts = Wording(wording, _PARTS)
        calls = [clair_call(item.id, parts, prediction.text, [item.row["caption"]])]
        for key, text in zip(_SHORT, (prediction.text, item.row["caption"]), strict=True):
            messages: list[Mapping[str, Any]] = [
                {"role": "system", "content": parts.fill("summary_system")},
                {"role": "user", "content": parts.fill("summary", description=text)},
            ]
            calls.append(JudgeCall(item=item.id, key=key, messages=messages, options=_OPTIONS))
        return calls

    def readable(self, item: Item, key: str, answer: str) -> bool:
        """Whether it holds a score, or a text."""
        return bool(answer.strip()) if key in _SHORT else clair_readable(answer)

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """The short metrics over the items of which both texts were shortened, and CLAIR."""
        notes: list[str] = []
        said = predicted_items(items, predictions, notes)
        shortened = [item for item in said if all((item.id, key) in answers for key in _SHORT)]
        if len(shortened) < len(said):
            kept = {item.id for item in shortened}
            left = [item.id for item in said if item.id not in kept]
            notes.append(
                f"{len(left)} of {len(said)} items lack the shortened texts and are left out of "
                f"the short metrics: {listed(left)}"
            )
        prediction, reference = _SHORT
        scores = caption_scores(
            COCO_METRICS,
            {item.id: answers[item.id, prediction] for item in shortened},
            {item.id: (answers[item.id, reference],) for item in shortened},
            notes,
        )
        return with_clair(scores, said, answers)


def _item(data: Path, row: Row) -> Item:
    return Item(
        id=row.name("id"),
        image=picture_name(data, row.text("file_name"), "images", ""),
        masks=(row.clipped_box("bbox", row.size()),),
        row={"caption": row.text("caption")},
    )
