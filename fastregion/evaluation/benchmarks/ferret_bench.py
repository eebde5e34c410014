"""Ferret-Bench, referring description: captions of boxes, compared with references by a judge.

Data: ``box_refer_caption.json`` (what is described), and for the judge ``question.jsonl``,
``answer.jsonl``, ``context.jsonl`` and ``rule.json``, all aligned by their order; here or in
``annotations`` or ``refer_desc``. Pictures (COCO val2017) in ``images`` or ``val2017``. A captioner
sees the box only, not the question.

    score = 100 * (mean score of the model's answers) / (mean score of the references)

Verified: the reading of reviews, the removal of boxes from answers and the score, against vectors
of the published functions.
Not verified: the messages, of which no record is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from fastregion.evaluation.benchmarks.decoding import decoding
from fastregion.evaluation.benchmarks.notes import (
    Published,
    contradictions,
    count_note,
    judged_items,
    predicted_items,
)
from fastregion.evaluation.benchmarks.pair_scores import (
    FAILED,
    failed_note,
    parse_pair,
    relative_score,
    without_boxes,
)
from fastregion.evaluation.benchmarks.rows import (
    Row,
    find_file,
    picture_name,
    read_object,
    read_rows,
)
from fastregion.evaluation.benchmarks.wording import Wording

__all__ = ["FerretBench"]

_KEY = "review"
_JUDGE_OPTIONS = {"temperature": 0.0, "max_tokens": 1024}
_PARTS = {"system": (), "message": ("context", "question", "reference", "answer", "rule")}


def _printed(reference: float, model: float, score: float) -> tuple[Published, ...]:
    where, means = "the code's documentation", {"reference": reference, "model": model}
    return (
        Published(where=where, values=means),
        Published(where=where, values={"score": score}, digits=1),
    )


_PUBLISHED = {"gar_1b": _printed(7.1, 3.975, 56.0), "gar_8b": _printed(7.75, 5.025, 64.8)}


@dataclass(frozen=True, kw_only=True)
class FerretBench(Benchmark):
    """See the module."""

    name: ClassVar[str] = "ferret-bench"
    summary: ClassVar[str] = "captions of boxes, compared with reference answers by a judge"
    version: ClassVar[int] = 1
    judged: ClassVar[bool] = True
    template: ClassVar[str | None] = "ferret_bench.txt"

    def items(self, data: Path) -> list[Item]:
        """The boxes, with what the judge gets to read."""
        boxes = read_rows(_find(data, "box_refer_caption.json"))
        beside = {
            name: read_rows(_find(data, f"{name}.jsonl"))
            for name in ("question", "answer", "context")
        }
        rules = read_object(_find(data, "rule.json"))
        for name, rows in beside.items():
            if len(rows) != len(boxes):
                raise ValueError(
                    f"data: {name}.jsonl: expected {len(boxes)} lines, as many as "
                    f"box_refer_caption.json has rows, got {len(rows)}"
                )
        return [
            _item(data, row, {name: rows[index] for name, rows in beside.items()}, rules)
            for index, row in enumerate(boxes)
        ]

    def query(self, item: Item, model_type: str) -> Query:
        """The model's own description prompt."""
        return Query(options=decoding(model_type))

    def judge_calls(
        self, item: Item, prediction: Prediction, wording: str, data: Path
    ) -> list[JudgeCall]:
        """One call; the judge sees no picture."""
        parts = Wording(wording, _PARTS)
        values = {name: item.row[name] for name in ("context", "question", "reference", "rule")}
        message = parts.fill("message", answer=without_boxes(prediction.text), **values)
        messages = [
            {"role": "system", "content": parts.fill("system")},
            {"role": "user", "content": message},
        ]
        return [JudgeCall(item=item.id, key=_KEY, messages=messages, options=_JUDGE_OPTIONS)]

    def readable(self, item: Item, key: str, answer: str) -> bool:
        """Whether it begins with two scores."""
        return parse_pair(answer) != FAILED

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """See the module; with both means."""
        notes: list[str] = []
        judged = judged_items(
            predicted_items(items, predictions, notes), answers, lambda item: [_KEY], notes
        )
        pairs = {item.id: parse_pair(answers[item.id, _KEY]) for item in judged}
        notes += failed_note(pairs)
        table = {}
        if pairs:
            columns = zip(*pairs.values(), strict=True)
            reference, model = (sum(column) / len(pairs) for column in columns)
            table = {
                "score": relative_score(list(pairs.values())),
                "reference": reference,
                "model": model,
            }
            if count_note(items, 40, "regions", notes) and len(judged) == len(items):
                notes += contradictions(predictions, table, _PUBLISHED)
        return Scores(
            table=table,
            items={key: {"reference": a, "model": b} for key, (a, b) in pairs.items()},
            notes=tuple(notes),
            counts=dict.fromkeys(table, len(pairs)),
            failures=tuple(sorted(pairs, key=lambda key: pairs[key][1] - pairs[key][0])),
        )

    def recorded(
        self, data: Path, record: Path
    ) -> tuple[list[Prediction], dict[tuple[str, str], str]]:
        """Read a published file of outputs (a list with captions) or of reviews (JSON lines)."""
        items = self.items(data)
        rows = read_rows(record, "record")
        if len(rows) > len(items):
            raise ValueError(
                f"record: {str(record)!r}: expected at most {len(items)} rows, got {len(rows)}"
            )
        known = {item.id for item in items}
        predictions: list[Prediction] = []
        answers: dict[tuple[str, str], str] = {}
        for item, row in zip(items, rows, strict=False):
            if "content" not in row:
                text = row.text("caption")
                predictions.append(Prediction(item=item.id, text=text, model=record.stem))
                continue
            if (key := row.name("question_id")) not in known:
                raise row.error("question_id", f"is no row of the data, got {key!r}")
            answers[key, _KEY] = row.text("content")
            text = row.text("answer2")
            predictions.append(Prediction(item=key, text=text, model=record.stem))
        return predictions, answers


def _find(data: Path, name: str) -> Path:
    return find_file(data, name, f"annotations/{name}", f"refer_desc/{name}")


def _item(data: Path, row: Row, beside: Mapping[str, Row], rules: Row) -> Item:
    question = beside["question"]
    category = question.text("category")
    annotation = row.row("annotation")
    annotation.array("segmentation", least=1)
    return Item(
        id=row.name("question_id"),
        image=picture_name(data, row.text("image"), "images", "val2017", "images/val2017", ""),
        masks=({"segmentation": annotation.values["segmentation"]},),
        group=category,
        row={
            "question": question.text("text"),
            "reference": beside["answer"].text("text"),
            "context": beside["context"].text("text"),
            "rule": rules.row(category).text("prompt"),
        },
    )
