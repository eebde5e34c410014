"""ViP-Bench: questions about regions that are marked in the picture, scored by a judge.

Data: ``vip-bench-meta-data.json`` (question, answer and abilities of every item) and
``bbox/questions.jsonl`` or ``human/questions.jsonl`` (what is asked); pictures named after their
items below the split's ``images``. The marks are part of the pictures: a captioner is asked about
the whole picture. A judge gives each answer a number from 0 to 1.

    entry of an ability = 100 * mean over the items that need it;  total = 100 * mean over all
    entry "exactly ..." = the same over the items that need just these abilities

A judge whose answer cannot be read is asked again, up to five times in all, with a hint, the
question of the metadata and a temperature that rises by 0.5; then the answer counts 0. The paper's
numbers are means over five runs of the judge (``--repeats 5``).

Verified: reading of answers and arithmetic, on made-up cases after the description of the code.
Not verified: the names of the abilities and of the pictures; the messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from fastregion.evaluation.benchmarks.base import (
    Answered,
    Benchmark,
    Describer,
    Item,
    JudgeCall,
    Picture,
    Prediction,
    Query,
    Scores,
)
from fastregion.evaluation.benchmarks.decoding import decoding
from fastregion.evaluation.benchmarks.notes import (
    count_note,
    judged_items,
    listed,
    predicted_items,
)
from fastregion.evaluation.benchmarks.rows import (
    Row,
    find_file,
    picture_name,
    read_object,
    read_rows,
)
from fastregion.evaluation.benchmarks.wording import Wording
from fastregion.images import load_image
from fastregion.regions import Region

__all__ = ["VipBench", "read_grade"]

_SPLITS = ("bbox", "human")
_KEY = "grade"
_MAX_TOKENS = 3
_ATTEMPTS = 5
_WARMER = 0.5  # of each further attempt
_PARTS = {"message": ("question", "reference", "answer"), "hint": ()}
_TOTAL = "total"


def read_grade(answer: str) -> float | None:
    """The number in [0, 1] that is the first word of an answer; None without one."""
    try:
        grade = float(answer.split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


@dataclass(frozen=True, kw_only=True)
class VipBench(Benchmark):
    """See the module.

    Attributes:
        split: ``"bbox"`` (drawn boxes) or ``"human"`` (marks drawn by hand).
    """

    name: ClassVar[str] = "vip-bench"
    summary: ClassVar[str] = "questions about regions marked in the picture"
    version: ClassVar[int] = 1
    judged: ClassVar[bool] = True
    template: ClassVar[str | None] = "vip_bench.txt"

    split: str = "bbox"

    def __post_init__(self) -> None:
        if self.split not in _SPLITS:
            raise ValueError(f"split: expected one of {_SPLITS}, got {self.split!r}")

    def items(self, data: Path) -> list[Item]:
        """The questions of the split, in the order of its file."""
        known = read_object(find_file(data, "vip-bench-meta-data.json"))
        rows = read_rows(find_file(data, f"{self.split}/questions.jsonl"))
        items = []
        for row in rows:
            key = row.name("question_id")
            about = known.row(key)
            items.append(
                Item(
                    id=key,
                    image=self._picture_name(data, row, key),
                    row={
                        "question": row.text("text"),
                        "question again": about.text("question"),
                        "reference": about.text("answer"),
                        "abilities": about.texts("capability", least=1),
                    },
                )
            )
        return items

    def query(self, item: Item, model_type: str) -> Query:
        """The question of the split."""
        return Query(prompt=item.row["question"], joint=True, options=decoding(model_type))

    def predict(
        self, describer: Describer, picture: Picture, items: Sequence[Item], query: Query
    ) -> list[Answered]:
        """Ask about the whole picture."""
        pixels = load_image(picture)  # type: ignore[arg-type]
        height, width = pixels.shape[:2]
        whole = Region.from_box((0, 0, width, height), (height, width))
        return [
            Answered(text=describer.ask(pixels, [whole], query.prompt or "", **query.options))
            for _ in items
        ]

    def judge_calls(
        self, item: Item, prediction: Prediction, wording: str, data: Path
    ) -> list[JudgeCall]:
        """One call; the judge sees no picture."""
        parts = Wording(wording, _PARTS)
        reference = item.row["reference"]
        for word in ("<AND>", "<OR>"):
            reference = reference.replace(word, f" {word} ")

        def call(attempt: int, question: str, hint: str) -> JudgeCall:
            message = parts.fill(
                "message", question=question, reference=reference, answer=prediction.text
            )
            return JudgeCall(
                item=item.id,
                key=_KEY,
                messages=[{"role": "user", "content": message + hint}],
                options={"temperature": _WARMER * attempt, "max_tokens": _MAX_TOKENS},
            )

        again, hint = item.row["question again"], parts.fill("hint")
        retries = [call(attempt, again, hint) for attempt in range(1, _ATTEMPTS)]
        first = call(0, item.row["question"], "")
        return [replace(first, attempts=_ATTEMPTS, retries=retries)]

    def readable(self, item: Item, key: str, answer: str) -> bool:
        """Whether it begins with a number in [0, 1]."""
        return read_grade(answer) is not None

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """See the module; an answer that cannot be read counts 0."""
        notes: list[str] = []
        judged = judged_items(
            predicted_items(items, predictions, notes), answers, lambda item: [_KEY], notes
        )
        grades = {item.id: read_grade(answers[item.id, _KEY]) for item in judged}
        unread = [key for key, grade in grades.items() if grade is None]
        if unread:
            notes.append(f"{len(unread)} answers hold no number and count 0: {listed(unread)}")
        count_note(items, 303, "questions", notes)
        kept: dict[str, dict[str, float]] = {}
        for item in judged:
            value, abilities = 100 * (grades[item.id] or 0.0), item.row["abilities"]
            kept[item.id] = dict.fromkeys((*abilities, _TOTAL, _exactly(abilities)), value)
        needed = [item.row["abilities"] for item in judged]
        names = dict.fromkeys(name for abilities in needed for name in abilities)
        columns = {
            name: [values[name] for values in kept.values() if name in values]
            for name in (*names, _TOTAL, *dict.fromkeys(map(_exactly, needed)))
        }
        return Scores(
            table={name: sum(found) / len(found) for name, found in columns.items() if found},
            items=kept,
            notes=tuple(notes),
            counts={name: len(found) for name, found in columns.items() if found},
            failures=tuple(sorted(kept, key=lambda key: kept[key][_TOTAL])),
        )

    def recorded(
        self, data: Path, record: Path
    ) -> tuple[list[Prediction], dict[tuple[str, str], str]]:
        """Read published results: answers by item; none is judged."""
        known = {item.id for item in self.items(data)}
        found = read_object(record, "record")
        for key in found.values:
            if key not in known:
                raise found.error(key, "is no item of the data")
        return [
            Prediction(item=key, text=found.text(key), model=record.stem) for key in found.values
        ], {}

    def _picture_name(self, data: Path, row: Row, key: str) -> str:
        name = row.text("image") if "image" in row else f"{key}.png"
        return picture_name(data, name, f"{self.split}/images", self.split, "images", "")


def _exactly(abilities: Sequence[str]) -> str:
    """The entry of the items that need just these; their order does not matter."""
    return f"exactly {' + '.join(sorted(set(abilities)))}"
