r"""GAR-Bench-VQA: multiple-choice questions about marked regions and how they relate.

Data: ``GAR-Bench-VQA.json``, here or in ``annotations``; pictures as its field ``image`` says.
No judge: an answer is right if the whole of it is the letter, in either case.

Verified:
    - counts by type and in all, and percentages, of the published outputs
    - the number of marked regions equals that of the names in every question and its options
Not verified: the paper's numbers, which the published outputs do not give; how the published code
orders the regions' names (it varies from run to run; here as the question first names them).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from fastregion.evaluation.benchmarks.accuracy import by_group
from fastregion.evaluation.benchmarks.base import Item, Prediction, Query, Scores
from fastregion.evaluation.benchmarks.gar_bench import GarBench, switch_notes
from fastregion.evaluation.benchmarks.notes import (
    Published,
    contradictions,
    count_note,
    predicted_items,
)
from fastregion.evaluation.benchmarks.rows import Row, find_file, item_of, read_rows

__all__ = ["GarBenchVqa"]

_FILE = "GAR-Bench-VQA.json"
_PERCEPTION = ("color", "shape", "texture/pattern", "material")
_REASONING = ("ordering", "mirror", "relation")
_SETS = {
    "perception": _PERCEPTION,
    "reasoning": _REASONING,
    "overall": (*_PERCEPTION, *_REASONING),
}
_NAME = re.compile(r"<Prompt(\d+)>")


def _paper(overall: float, *by_type: float) -> Published:
    names = ("color", "shape", "texture/pattern", "material", "ordering", "mirror", "relation")
    values = {"overall": overall, **dict(zip(names, by_type, strict=True))}
    return Published(where="the paper", values=values, digits=1)


_PUBLISHED = {
    "gar_1b": (
        Published(where="the code's documentation", values={"overall": 47.9}, digits=1),
        _paper(50.6, 55.1, 46.9, 69.0, 47.2, 21.9, 62.3, 56.4),
    ),
    "gar_8b": (
        Published(
            where="the code's documentation", values={"overall": 57.8, "relation": 65.4}, digits=1
        ),
        _paper(59.9, 59.4, 54.7, 75.9, 52.8, 48.4, 60.7, 68.3),
        Published(where="the text of the paper", values={"overall": 54.5}, digits=1),
    ),
}


@dataclass(frozen=True, kw_only=True)
class GarBenchVqa(GarBench):
    """See the module."""

    name: ClassVar[str] = "gar-bench-vqa"
    summary: ClassVar[str] = "multiple-choice questions about regions and their relations"
    version: ClassVar[int] = 1

    def items(self, data: Path) -> list[Item]:
        """The questions, in the order of the file."""
        rows = read_rows(find_file(data, _FILE, f"annotations/{_FILE}"))
        return [_item(index, row) for index, row in enumerate(rows)]

    def query(self, item: Item, model_type: str) -> Query:
        """The question and its options, about all regions at once."""
        options = "".join(f"\n{choice}" for choice in item.row["choices"])
        prompt = (
            f"Question: {item.row['question']}\nOptions:{options}\n"
            "Answer with the correct option's letter directly."
        )
        return self.asked(prompt, model_type)

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """Percentages right: by type, of both kinds, and of all questions."""
        notes: list[str] = []
        asked = predicted_items(items, predictions, notes)
        right = {
            item.id: predictions[item.id].text.lower() == item.row["answer"].lower()
            for item in asked
        }
        scores = by_group(asked, right, sets=_SETS, scale=100)
        notes += switch_notes(asked, predictions)
        if count_note(items, 424, "questions", notes) and len(asked) == len(items):
            notes += contradictions(predictions, scores.table, _PUBLISHED)
        return replace(scores, notes=tuple(notes))

    def recorded(
        self, data: Path, record: Path
    ) -> tuple[list[Prediction], dict[tuple[str, str], str]]:
        """Read a published file of outputs: the items with ``model_output``."""
        items = self.items(data)
        predictions = []
        for row in read_rows(record, "record"):
            predictions.append(
                Prediction(
                    item=item_of(items, row, "question", "answer").id,
                    text=row.text("model_output"),
                    model=record.stem.removesuffix("_vqa"),
                )
            )
        return predictions, {}


def _item(index: int, row: Row) -> Item:
    question, choices, answer = row.text("question"), row.texts("choices", 2), row.text("answer")
    masks = row.rles("mask_rles")
    named = {int(name) for name in _NAME.findall(" ".join((question, *choices)))}
    if named != set(range(len(masks))):
        raise row.error(
            "mask_rles",
            f"expected one for each region of the question, {sorted(named)}, got {len(masks)}",
        )
    letters = [choice[:1] for choice in choices]
    if answer not in letters:
        raise row.error("answer", f"expected one of {letters}, got {answer!r}")
    if row.text("type") not in _SETS["overall"]:
        raise row.error("type", f"expected one of {_SETS['overall']}, got {row.values['type']!r}")
    return Item(
        id=str(index),
        image=row.text("image"),
        masks=masks,
        group=row.text("type"),
        row={"question": question, "choices": choices, "answer": answer},
    )
