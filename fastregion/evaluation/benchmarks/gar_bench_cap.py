"""GAR-Bench-Cap: how regions relate, as an answer ("simple") or in a description ("detailed").

Data: ``GAR-Bench-Caption-Simple.json`` and ``GAR-Bench-Caption-Detailed.json``, here or in
``annotations`` (one of them is enough); pictures as their field ``image`` says. A judge that sees
the picture, each region and each mask says ``True`` or ``False``; anything else is false.

Verified:
    - accuracies, and the pooled one, of the published judged outputs
    - crop windows of the regions
Not verified: the messages, of which no record is published; the paper's numbers, which the judged
outputs do not give, and whose overall column does not follow from its parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from fastregion.evaluation.benchmarks.accuracy import by_group
from fastregion.evaluation.benchmarks.base import Item, JudgeCall, Prediction, Query, Scores
from fastregion.evaluation.benchmarks.gar_bench import GarBench, switch_notes
from fastregion.evaluation.benchmarks.judge_crops import crop_urls, image_part, text_part
from fastregion.evaluation.benchmarks.notes import (
    Published,
    contradictions,
    count_note,
    judged_items,
    listed,
    predicted_items,
)
from fastregion.evaluation.benchmarks.rows import Row, find_file, item_of, read_rows
from fastregion.evaluation.benchmarks.wording import Wording
from fastregion.evaluation.data_urls import data_url
from fastregion.images import load_image

__all__ = ["GarBenchCap"]

_FILES = {
    "simple": "GAR-Bench-Caption-Simple.json",
    "detailed": "GAR-Bench-Caption-Detailed.json",
}
_FIELDS = {
    "simple": ("question", "answer"),
    "detailed": ("subject_name", "object_name", "predicate_name"),
}
_DETAILED_QUERY = "Describe <Prompt0> in detail, including the relationship with <Prompt1>."
_KEY = "same"
_WORDS = ("True", "False")
_JUDGE_OPTIONS = {"temperature": 0.0, "max_tokens": 1000}
_PARTS = {
    "picture": (),
    "crop": ("number", "prompt"),
    "mask": ("number", "prompt"),
    "simple": ("answer", "output"),
    "detailed": ("subject", "object", "predicate", "output"),
}


def _paper(simple: float, detailed: float, pooled: float, implied: float) -> tuple[Published]:
    values = {"simple": simple, "detailed": detailed, "pooled": pooled}
    where = f"the paper (the parts of which imply {implied} pooled)"
    return (Published(where=where, values=values, scale=100, digits=1),)


_PUBLISHED = {"gar_1b": _paper(56.7, 63.6, 57.5, 60.3), "gar_8b": _paper(66.0, 64.5, 62.2, 65.2)}


@dataclass(frozen=True, kw_only=True)
class GarBenchCap(GarBench):
    """See the module."""

    name: ClassVar[str] = "gar-bench-cap"
    summary: ClassVar[str] = "relations between two regions, in a sentence or a description"
    version: ClassVar[int] = 1
    judged: ClassVar[bool] = True
    template: ClassVar[str | None] = "gar_bench_cap.txt"

    def items(self, data: Path) -> list[Item]:
        """The items of each file that there is, in its order."""
        places = {kind: (name, f"annotations/{name}") for kind, name in _FILES.items()}
        find_file(data, *(place for names in places.values() for place in names))
        return [
            _item(kind, index, row)
            for kind, names in places.items()
            if any((data / place).is_file() for place in names)
            for index, row in enumerate(read_rows(find_file(data, *names)))
        ]

    def query(self, item: Item, model_type: str) -> Query:
        """The question of the item, or a description that names the relation."""
        prompt = item.row["question"] if item.group == "simple" else _DETAILED_QUERY
        return self.asked(prompt, model_type)

    def judge_calls(
        self, item: Item, prediction: Prediction, wording: str, data: Path
    ) -> list[JudgeCall]:
        """One call."""
        parts = Wording(wording, _PARTS)
        picture = load_image(self.picture(item, data))  # type: ignore[arg-type]
        content = [text_part(parts.fill("picture")), image_part(data_url(picture))]
        for index, mask in enumerate(item.masks):
            urls = crop_urls(picture, mask)
            for place, (part, url) in enumerate(zip(("crop", "mask"), urls, strict=True)):
                number, prompt = str(2 * index + 2 + place), f"<Prompt{index}>"
                content += [text_part(parts.fill(part, number=number, prompt=prompt))]
                content += [image_part(url)]
        values = (
            {"answer": item.row["answer"]}
            if item.group == "simple"
            else {name: item.row[f"{name}_name"] for name in ("subject", "object", "predicate")}
        )
        content.append(text_part(parts.fill(item.group, output=prediction.text, **values)))
        messages = [{"role": "user", "content": content}]
        return [JudgeCall(item=item.id, key=_KEY, messages=messages, options=_JUDGE_OPTIONS)]

    def readable(self, item: Item, key: str, answer: str) -> bool:
        """Whether it is one of the two words."""
        return answer in _WORDS

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """Shares of ``True``: of each kind, and pooled over both."""
        notes: list[str] = []
        judged = judged_items(
            predicted_items(items, predictions, notes), answers, lambda item: [_KEY], notes
        )
        notes += switch_notes(judged, predictions)
        said = {item.id: answers[item.id, _KEY] for item in judged}
        odd = [key for key, answer in said.items() if answer not in _WORDS]
        if odd:
            notes.append(f"{len(odd)} answers are neither True nor False: {listed(odd)}")
        right = {key: answer == "True" for key, answer in said.items()}
        scores = by_group(judged, right, sets={"pooled": tuple(_FILES)})
        if count_note(items, 204, "items of both kinds", notes) and len(judged) == len(items):
            notes += contradictions(predictions, scores.table, _PUBLISHED)
        return replace(scores, notes=tuple(notes))

    def recorded(
        self, data: Path, record: Path
    ) -> tuple[list[Prediction], dict[tuple[str, str], str]]:
        """Read a published file of outputs, judged or not, of one kind.

        That of the other kind is read too where it lies beside this one, as
        ``gar_1b_simple_eval.json`` and ``gar_1b_detailed_eval.json`` do.
        """
        items = self.items(data)
        predictions: list[Prediction] = []
        answers: dict[tuple[str, str], str] = {}
        for file in _siblings(record):
            model = file.stem.removesuffix("_eval")
            for kind in _FILES:
                model = model.removesuffix(f"_{kind}")
            for row in read_rows(file, "record"):
                key = item_of(items, row, *_FIELDS["simple"], *_FIELDS["detailed"]).id
                predictions.append(Prediction(item=key, text=row.text("model_output"), model=model))
                if "eval_result" in row:
                    answers[key, _KEY] = row.text("eval_result")
        return predictions, answers


def _siblings(record: Path) -> list[Path]:
    """The file, and that of the other kind."""
    simple, detailed = (f"_{kind}" for kind in _FILES)
    swapped = {simple: detailed, detailed: simple}
    for kind, other in swapped.items():
        if kind in record.stem:
            beside = record.with_name(record.name.replace(kind, other))
            return [record, beside] if beside.is_file() else [record]
    return [record]


def _item(kind: str, index: int, row: Row) -> Item:
    values: dict[str, Any] = {name: row.text(name) for name in _FIELDS[kind]}
    return Item(
        id=f"{kind}-{index}",
        image=row.text("image"),
        masks=row.rles("mask_rles", 2),
        group=kind,
        row=values,
    )
