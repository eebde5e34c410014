"""VideoRefer-Bench-Q: multiple-choice questions about objects in videos.

Data: ``VideoRefer-Bench-Q.json``, here or in ``annotations``; the frames of a video in the folder
that the field ``video`` names, here or in ``videos``. No judge: letters are compared.

Verified: reading of answers and accuracies, against vectors of the published functions.
Not verified: what captioners other than VideoRefer were shown. In a question, an object is
``<object1><region>``; here it becomes ``<Prompt0>``, and so on in the order of their numbers.
Models that take no questions about videos can be shown one frame (``single_frame=true``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from fastregion.evaluation.benchmarks.accuracy import by_group
from fastregion.evaluation.benchmarks.annotated_video import (
    VideoBenchmark,
    read_marks,
    shown_frames,
)
from fastregion.evaluation.benchmarks.base import Item, Prediction, Query, Scores
from fastregion.evaluation.benchmarks.notes import count_note, predicted_items
from fastregion.evaluation.benchmarks.rows import Row, find_file, read_rows

__all__ = ["VideoReferQ", "is_right"]

_FILE = "VideoRefer-Bench-Q.json"
_TYPES = (
    "Basic Questions",
    "Sequential Questions",
    "Relationship Questions",
    "Reasoning Questions",
    "Future Predictions",
)
_IN_BRACKETS = re.compile(r"\(([A-Z])\)")
_BEFORE_BRACKET = re.compile(r"([A-Z])\)")
_OBJECT = re.compile(r"<object(\d+)><region>")


def is_right(prediction: str, answer: str) -> bool:
    """Whether a prediction means the same letter as the right option.

    The letter of a prediction is the first in brackets, else the first before a closing one, else
    its first character after full stops are left out.

    Args:
        prediction: what the model said; the published code fails where it is empty, here that is
            wrong.
        answer: the right option, such as ``(A) a helmet``.
    """
    truth = _IN_BRACKETS.search(answer)
    found = _IN_BRACKETS.search(prediction) or _BEFORE_BRACKET.search(prediction)
    said = found[1] if found else prediction.replace(".", "")[:1]
    return truth is not None and said.lower() == truth[1].lower()


@dataclass(frozen=True, kw_only=True)
class VideoReferQ(VideoBenchmark):
    """See the module."""

    name: ClassVar[str] = "videorefer-q"
    summary: ClassVar[str] = "multiple-choice questions about objects in videos"
    version: ClassVar[int] = 1

    def items(self, data: Path) -> list[Item]:
        """The questions, in the order of the file."""
        rows = read_rows(find_file(data, _FILE, f"annotations/{_FILE}"))
        return [_item(row, self.single_frame) for row in rows]

    def query(self, item: Item, model_type: str) -> Query:
        """The question and its options, about all objects at once."""
        options = " ".join(item.row["options"])
        prompt = (
            f"{item.row['question']} {options}. "
            "Answer with the option's letter from the given choices directly."
        )
        return Query(prompt=prompt, joint=True)

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """Shares right: by type, and of all questions ("average")."""
        notes: list[str] = []
        asked = predicted_items(items, predictions, notes)
        right = {item.id: is_right(predictions[item.id].text, item.row["answer"]) for item in asked}
        count_note(items, 1000, "questions", notes)
        return replace(by_group(asked, right, sets={"average": _TYPES}), notes=tuple(notes))


def _item(row: Row, single_frame: bool) -> Item:
    objects = read_marks(row)
    numbers = shown_frames(row, objects, single_frame)
    video, question, answer = row.text("video"), row.text("Question"), row.text("Answer")
    named = {number: f"<Prompt{k}>" for k, number in enumerate(sorted(set(_objects(question))))}
    if len(named) > len(objects):
        raise row.error("annotation", f"expected {len(named)} objects, got {len(objects)}")
    if not _IN_BRACKETS.search(answer):
        raise row.error("Answer", f"expected an option that begins like (A), got {answer!r}")
    if row.text("type") not in _TYPES:
        raise row.error("type", f"expected one of {_TYPES}, got {row.values['type']!r}")
    names = tuple(f"{video}, frame {number}" for number in numbers)
    masks = [tuple(marks.get(number) for number in numbers) for marks in objects]
    return Item(
        id=row.name("id"),
        image=names[0] if single_frame else None,
        frames=() if single_frame else names,
        masks=tuple(mask for (mask,) in masks) if single_frame else tuple(masks),
        group=row.text("type"),
        row={
            "video": video,
            "numbers": numbers,
            "question": _OBJECT.sub(lambda found: named[int(found[1])], question),
            "options": row.texts("options", least=2),
            "answer": answer,
        },
    )


def _objects(question: str) -> list[int]:
    return [int(number) for number in _OBJECT.findall(question)]
