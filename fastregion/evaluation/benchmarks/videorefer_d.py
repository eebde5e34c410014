"""VideoRefer-Bench-D: descriptions of objects in videos, judged in four dimensions.

Data: ``VideoRefer-Bench-D.json``, here or in ``annotations``; videos, or folders with their frames,
as the field ``video`` says, here or in ``videos``. A judge reads the right and the predicted
description and gives each dimension a number from 0 to 5.

    entry of a dimension = mean over the reviews that have it;  average = mean of the four entries

Verified: reading of reviews, means, counts and average, against vectors of the published functions.
Not verified: the messages; how the published code treats reviews that could not be read (its two
versions differ; here they stay, without scores); the paper's numbers, of which the single-frame
average of GAR-8B (2.75) is not the mean of its parts (2.85).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastregion.evaluation.benchmarks.annotated_video import (
    VideoBenchmark,
    read_marks,
    shown_frames,
)
from fastregion.evaluation.benchmarks.base import (
    Item,
    JudgeCall,
    Prediction,
    Query,
    Scores,
)
from fastregion.evaluation.benchmarks.notes import (
    count_note,
    judged_items,
    listed,
    predicted_items,
)
from fastregion.evaluation.benchmarks.rows import Row, find_file, read_rows
from fastregion.evaluation.benchmarks.wording import Wording

__all__ = ["VideoReferD", "read_review"]

_FILE = "VideoRefer-Bench-D.json"
_DIMENSIONS = (
    "Subject Correspondence",
    "Appearance Description",
    "Temporal Description",
    "Hallucination Detection",
)
_KEY = "review"
_JUDGE_OPTIONS = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 800}  # of the first version
_ATTEMPTS = 5
_PARTS = {"system": (), "message": ("reference", "answer")}
_LINE = re.compile(r"\d+\.\s+(.*?):\s+([\d.]+)")


def read_review(review: str) -> dict[str, float]:
    """The numbers of a review's lines such as ``1. Subject Correspondence: 5``, by name.

    Lines in bold type are not read, as published.
    """
    found = {}
    for name, number in _LINE.findall(review):
        try:
            found[name] = float(number)
        except ValueError:  # such as "1.2.3"
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class VideoReferD(VideoBenchmark):
    """See the module."""

    name: ClassVar[str] = "videorefer-d"
    summary: ClassVar[str] = "descriptions of objects in videos, judged in four dimensions"
    version: ClassVar[int] = 1
    judged: ClassVar[bool] = True
    template: ClassVar[str | None] = "videorefer_d.txt"

    def items(self, data: Path) -> list[Item]:
        """The objects, in the order of the file."""
        rows = read_rows(find_file(data, _FILE, f"annotations/{_FILE}"))
        return [_item(row, self.single_frame) for row in rows]

    def query(self, item: Item, model_type: str) -> Query:
        """The model's own description prompt."""
        return Query()

    def judge_calls(
        self, item: Item, prediction: Prediction, wording: str, data: Path
    ) -> list[JudgeCall]:
        """One call; the judge sees no picture."""
        parts = Wording(wording, _PARTS)
        message = parts.fill("message", reference=item.row["reference"], answer=prediction.text)
        messages = [
            {"role": "system", "content": parts.fill("system")},
            {"role": "user", "content": message},
        ]
        return [
            JudgeCall(
                item=item.id,
                key=_KEY,
                messages=messages,
                options=_JUDGE_OPTIONS,
                attempts=_ATTEMPTS,
            )
        ]

    def readable(self, item: Item, key: str, answer: str) -> bool:
        """Whether it has a number for each dimension."""
        return read_review(answer).keys() >= set(_DIMENSIONS)

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """See the module."""
        notes: list[str] = []
        judged = judged_items(
            predicted_items(items, predictions, notes), answers, lambda item: [_KEY], notes
        )
        read = {item.id: read_review(answers[item.id, _KEY]) for item in judged}
        short = [key for key, found in read.items() if not found.keys() >= set(_DIMENSIONS)]
        if short:
            notes.append(f"{len(short)} reviews lack a dimension: {listed(short)}")
        table: dict[str, float] = {}
        counts: dict[str, int] = {}
        for name in _DIMENSIONS:
            values = [found[name] for found in read.values() if name in found]
            if values:
                table[name] = sum(values) / len(values)
                counts[name] = len(values)
        if len(table) == len(_DIMENSIONS):
            table["average"] = sum(table.values()) / len(table)
        count_note(items, 400, "objects", notes)
        return Scores(
            table=table,
            items=read,
            notes=tuple(notes),
            counts=counts,
            failures=tuple(sorted(read, key=lambda key: sum(read[key].values()))),
        )


def _item(row: Row, single_frame: bool) -> Item:
    (marks,) = read_marks(row)[:1]
    numbers, video = shown_frames(row, [marks], single_frame), row.text("video")
    names = tuple(f"{video}, frame {number}" for number in numbers)
    return Item(
        id=row.name("id"),
        image=names[0] if single_frame else None,
        frames=() if single_frame else names,
        masks=tuple(marks[number] for number in numbers),
        row={"video": video, "numbers": numbers, "reference": row.text("caption")},
    )
