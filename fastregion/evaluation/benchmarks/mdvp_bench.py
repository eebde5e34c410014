"""MDVP-Bench, detailed captions of boxes in six domains, compared with references by a judge.

Data: ``mdvp_caption_mask.json`` (the regions); with ``released`` also the questions
``data/<task>/<task>_box.json``. Pictures as the fields ``image_path`` and ``image_name`` say, here
or in ``images``. The judge sees the picture with numbered boxes.

    score of a domain = 100 * (mean score of the model's answers) / (mean of the references + 1e-6)

By default every region is compared with its own reference. ``released`` repeats what the published
code does: per domain it pairs the questions of that domain (one an image) with the answers of the
*first regions of the whole file*, whatever their domain; the published numbers come from that.

Verified: reading of reviews and score, against vectors of the published functions.
Not verified: messages and judged numbers, of which nothing is published; the number on a mark is
drawn in another font.
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
from fastregion.evaluation.benchmarks.decoding import decoding
from fastregion.evaluation.benchmarks.judge_crops import image_part, text_part
from fastregion.evaluation.benchmarks.mdvp_marks import numbered_boxes
from fastregion.evaluation.benchmarks.notes import count_note, judged_items, predicted_items
from fastregion.evaluation.benchmarks.pair_scores import (
    FAILED,
    failed_note,
    parse_pair,
    relative_score,
)
from fastregion.evaluation.benchmarks.rows import (
    Row,
    check_in_folder,
    find_file,
    picture_name,
    read_rows,
)
from fastregion.evaluation.benchmarks.wording import Wording
from fastregion.evaluation.data_urls import data_url
from fastregion.images import load_image
from fastregion.regions import Region

__all__ = ["MdvpBench"]

_DOMAINS = ("natural", "ocr_doc", "ocr_spotting", "multipanel", "android", "web")
_COLUMNS = {
    "Natural": ("natural",),
    "OCR": ("ocr_doc", "ocr_spotting"),
    "Multi-Panel": ("multipanel",),
    "Screenshot": ("android", "web"),
}
_TASK = "_detailed_caption"
_CONTEXTS = ("natural", "ocr", "screen", "panel", "android", "web")  # the first that fits counts
_JUDGE_OPTIONS = {"temperature": 0.0, "max_tokens": 1024}
_PARTS = {
    "system": (),
    "message": ("context", "question", "reference", "answer"),
    **dict.fromkeys(_CONTEXTS, ()),
}
_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class MdvpBench(Benchmark):
    """See the module.

    Attributes:
        released: pair questions and answers as the published code does.
    """

    name: ClassVar[str] = "mdvp-bench"
    summary: ClassVar[str] = "captions of boxes in six kinds of pictures, compared by a judge"
    version: ClassVar[int] = 1
    judged: ClassVar[bool] = True
    template: ClassVar[str | None] = "mdvp_bench.txt"

    released: bool = False

    def items(self, data: Path) -> list[Item]:
        """All regions; with ``released`` the first ones, as many as a domain has questions."""
        rows = read_rows(_regions_file(data))
        if not self.released:
            return [
                _item(data, index, row, _own_question(data, row)) for index, row in enumerate(rows)
            ]
        questions = {domain: _questions(data, domain) for domain in _DOMAINS}
        used = max(map(len, questions.values()))
        return [
            _item(
                data,
                index,
                row,
                {domain: asked[index] for domain, asked in questions.items() if index < len(asked)},
            )
            for index, row in enumerate(rows[:used])
        ]

    def query(self, item: Item, model_type: str) -> Query:
        """The model's own description prompt."""
        return Query(options=decoding(model_type))

    def judge_calls(
        self, item: Item, prediction: Prediction, wording: str, data: Path
    ) -> list[JudgeCall]:
        """One call for each question that the region's answer is paired with."""
        parts = Wording(wording, _PARTS)
        calls = []
        for domain, asked in item.row["asked"].items():
            check_in_folder(asked["image"], f"item {item.id!r}")
            picture = numbered_boxes(load_image(data / asked["image"]), asked["boxes"])
            text = parts.fill(
                "message",
                context=parts.fill(next(word for word in _CONTEXTS if word in domain)),
                question=asked["question"],
                reference=item.row["reference"],
                answer=prediction.text,
            )
            content = [text_part(text), image_part(data_url(picture, "JPEG"), detail="high")]
            messages: list[Mapping[str, Any]] = [
                {"role": "system", "content": parts.fill("system")},
                {"role": "user", "content": content},
            ]
            calls.append(
                JudgeCall(item=item.id, key=domain, messages=messages, options=_JUDGE_OPTIONS)
            )
        return calls

    def readable(self, item: Item, key: str, answer: str) -> bool:
        """Whether it begins with two scores."""
        return parse_pair(answer) != FAILED

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """Scores of the domains, and of the paper's four columns: means over their domains."""
        notes: list[str] = []
        judged = judged_items(
            predicted_items(items, predictions, notes),
            answers,
            lambda item: item.row["asked"],
            notes,
        )
        pairs: dict[str, dict[str, tuple[float, float]]] = {domain: {} for domain in _DOMAINS}
        for item in judged:
            for domain in item.row["asked"]:
                pairs[domain][item.id] = parse_pair(answers[item.id, domain])
        scores = {
            domain: relative_score(list(found.values()), _EPSILON)
            for domain, found in pairs.items()
            if found
        }
        for domain, found in pairs.items():
            notes += failed_note({f"{domain}/{key}": pair for key, pair in found.items()})
        columns = {
            column: sum(scores[domain] for domain in domains) / len(domains)
            for column, domains in _COLUMNS.items()
            if all(domain in scores for domain in domains)
        }
        if self.released:
            notes.append(
                "released: every domain compares answers about the first regions of the whole "
                "file with questions about other pictures, as the published numbers do"
            )
        else:
            count_note(items, 364, "regions", notes)
            notes.append(
                "published numbers come from misaligned pairs and cannot be compared with these; "
                "released=true repeats them"
            )
        differences = {
            item.id: min(pairs[d][item.id][1] - pairs[d][item.id][0] for d in item.row["asked"])
            for item in judged
            if item.row["asked"]
        }
        return Scores(
            table={**scores, **columns},
            items={
                item.id: {"pairs": {d: list(pairs[d][item.id]) for d in item.row["asked"]}}
                for item in judged
            },
            notes=tuple(notes),
            counts={domain: len(found) for domain, found in pairs.items() if found},
            failures=tuple(sorted(differences, key=lambda key: differences[key])),
        )

    def recorded(
        self, data: Path, record: Path
    ) -> tuple[list[Prediction], dict[tuple[str, str], str]]:
        """Read a published file of outputs, a caption for every region; none is judged."""
        items, rows = self.items(data), read_rows(record, "record")
        regions = len(read_rows(_regions_file(data)))
        if len(rows) != regions:
            raise ValueError(f"record: {str(record)!r}: expected {regions} rows, got {len(rows)}")
        predictions = [
            Prediction(item=item.id, text=row.text("caption"), model=record.stem)
            for item, row in zip(items, rows, strict=False)  # with released, only the first
        ]
        return predictions, {}


def _regions_file(data: Path) -> Path:
    name = "mdvp_caption_mask.json"
    return find_file(data, name, f"annotations/{name}")


def _item(data: Path, index: int, row: Row, asked: Mapping[str, Any]) -> Item:
    return Item(
        id=str(index),
        image=picture_name(data, row.text("image_path"), "", "images"),
        masks=(row.rle("mask_rle"),),
        group=_domain(row),
        row={"reference": row.text("caption"), "asked": asked},
    )


def _domain(row: Row) -> str:
    domain = row.text("dataset_name").removesuffix("_box").removesuffix(_TASK)
    if domain not in _DOMAINS:
        raise row.error(
            "dataset_name", f"expected one of {_DOMAINS} before {_TASK!r}, got {domain!r}"
        )
    return domain


def _own_question(data: Path, row: Row) -> Mapping[str, Any]:
    """What is asked about a region itself: its own picture, with its own box."""
    return {
        _domain(row): {
            "question": row.text("question"),
            "image": picture_name(data, row.text("image_path"), "", "images"),
            "boxes": (Region.from_rle(row.rle("mask_rle")).box,),
        }
    }


def _questions(data: Path, domain: str) -> list[Mapping[str, Any]]:
    name = f"{domain}{_TASK}/{domain}{_TASK}_box.json"
    return [
        {
            "question": row.text("question"),
            "image": picture_name(data, row.text("image_name"), "images", ""),
            "boxes": tuple(_box(row, box) for box in row.array("bbox", least=1)),
        }
        for row in read_rows(find_file(data, f"data/{name}", name))
    ]


def _box(row: Row, box: Any) -> tuple[float, ...]:
    return Row({"bbox": box}, row.where).box("bbox")
