"""DLC-Bench: detailed captions of objects, questioned by a judge with or without pictures.

Data: ``annotations.json`` (COCO), ``class_names.json`` and ``qa.json``, here or in ``annotations``;
pictures in ``images``. A judge answers one question about the object's class and some ten about
each caption; wrong answers cost points.

    score_pos, score_neg    means over a region's positive and negative questions, each in [-1, 1];
                            where the class is not recognised, credits are void and penalties stay
    avg = (mean of score_pos over regions + mean of score_neg over regions) / 2

Verified:
    - scores of every published answer file of both judges, by region, to 1e-12
    - messages and recognition questions of both judges, byte for byte, from templates that are
      taken from the records (but one: the older ``inflect`` of the text judge's record took "wine
      glass" for a plural)
    - crop windows of all regions
    - the choice that an answer means; regions without negative questions
Not verified: the paper's numbers of DAM, which its published outputs do not give.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from fastregion.evaluation.benchmarks.judge_crops import crop_urls, image_part, text_part
from fastregion.evaluation.benchmarks.multiple_choice import lettered, parse_choice
from fastregion.evaluation.benchmarks.notes import (
    Published,
    contradictions,
    count_note,
    judged_items,
    listed,
    predicted_items,
)
from fastregion.evaluation.benchmarks.plurals import indefinite, is_plural
from fastregion.evaluation.benchmarks.rows import Row, find_file, picture_name, read_object
from fastregion.evaluation.benchmarks.wording import Wording
from fastregion.images import load_image

__all__ = ["DlcBench", "DlcBenchImage"]

_RECOGNITION = "recognition"
_RECOGNITION_CHOICES = ("Yes", "No")
_TYPES = ("positive", "negative")
_TOTALS = ("avg", "avg_pos", "avg_neg", "query")  # of a record, beside its regions
_JUDGE_OPTIONS = {
    "temperature": 0.0,
    "top_p": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "max_tokens": 300,
}


def _printed(where: str, numbers: tuple[float, float, float], percent: bool = False) -> Published:
    values = dict(zip(("pos", "neg", "avg"), numbers, strict=True))
    return Published(
        where=where, values=values, scale=100 if percent else 1, digits=1 if percent else 3
    )


@dataclass(frozen=True, kw_only=True)
class DlcBench(Benchmark):
    """With the judge that reads the caption only, as published by DAM."""

    name: ClassVar[str] = "dlc-bench"
    summary: ClassVar[str] = "detailed captions of objects, questioned by a judge who reads them"
    version: ClassVar[int] = 1
    judged: ClassVar[bool] = True
    template: ClassVar[str | None] = "dlc_bench.txt"

    judge: ClassVar[str] = "text"
    published: ClassVar[Mapping[str, Sequence[Published]]] = {
        "dam_3b_v1": (
            _printed("the code's documentation", (0.510, 0.830, 0.670)),
            _printed("the paper (with prompt augmentation)", (51.3, 82.2, 66.7), True),
            _printed("the paper (without prompt augmentation)", (52.3, 82.2, 67.3), True),
            _printed("GAR's paper", (47.2, 81.8, 64.5), True),
        ),
        "dam_3b_joint_v1": (_printed("the paper (joint training)", (52.4, 85.4, 68.9), True),),
        "gar_1b": (
            _printed("the code's documentation", (0.489, 0.870, 0.679)),
            _printed("the paper", (48.9, 87.0, 67.9), True),
        ),
        "gar_8b": (
            _printed("the code's documentation", (0.502, 0.846, 0.674)),
            _printed("the paper", (50.2, 84.6, 67.4), True),
        ),
    }

    def items(self, data: Path) -> list[Item]:
        """The regions that have questions, in the order of ``qa.json``."""
        coco = read_object(find_file(data, *_places("annotations.json")))
        names = read_object(find_file(data, *_places("class_names.json")))
        questions = read_object(find_file(data, *_places("qa.json")))
        images = {row.integer("id"): row.text("file_name") for row in coco.rows("images")}
        annotations = {row.name("id"): row for row in coco.rows("annotations")}
        items = []
        for key in questions.values:
            if key not in annotations:
                raise questions.error(key, "has no annotation")
            annotation = annotations[key]
            if (image_id := annotation.integer("image_id")) not in images:
                raise annotation.error("image_id", f"no image has the id {image_id}")
            picture = picture_name(data, images[image_id], "images", "annotations/images", "")
            items.append(
                Item(
                    id=key,
                    image=picture,
                    masks=(annotation.rle("segmentation"),),
                    row={
                        "class": names.text(key),
                        "questions": [_question(row) for row in questions.rows(key, least=1)],
                    },
                )
            )
        return items

    def query(self, item: Item, model_type: str) -> Query:
        """The model's own description prompt, with its published decoding."""
        return Query(options=decoding(model_type))

    def judge_calls(
        self, item: Item, prediction: Prediction, wording: str, data: Path
    ) -> list[JudgeCall]:
        """One call a question, that about the class first."""
        parts = self._parts(wording)
        pictures = self._pictures(parts, item, data)
        asked: dict[str, tuple[str, Sequence[str]]] = {
            _RECOGNITION: (self._recognition(parts, item.row["class"]), _RECOGNITION_CHOICES)
        }
        for index, question in enumerate(item.row["questions"]):
            asked[str(index)] = (question["question"], _texts(question))
        calls = []
        for key, (question, choices) in asked.items():
            block = f"{question}\n{lettered(choices)}".rstrip()
            text = parts.fill("message", description=prediction.text, question=block)
            content = [*pictures, text_part(text)] if pictures else text
            calls.append(
                JudgeCall(
                    item=item.id,
                    key=key,
                    messages=[{"role": "user", "content": content}],
                    options=_JUDGE_OPTIONS,
                )
            )
        return calls

    def readable(self, item: Item, key: str, answer: str) -> bool:
        """Whether it means one of the choices."""
        return _read(answer, _choices(item, key)) is not None

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """See the module; regions whose caption begins with "Error:" have none."""
        notes: list[str] = []
        said = {k: p for k, p in predictions.items() if not p.text.startswith("Error:")}
        judged = judged_items(predicted_items(items, said, notes), answers, _keys, notes)
        regions: dict[str, dict[str, Any]] = {}
        unreadable, unrecognisable = [], []
        for item in judged:
            region = _score_region(item, answers)
            if region is None:
                unrecognisable.append(item.id)
                continue
            regions[item.id] = region
            unreadable += [
                f"{item.id}/{key}" for key, index in region["read"].items() if index is None
            ]
        if unreadable:
            notes.append(
                f"{len(unreadable)} answers mean no choice and count 0: {listed(unreadable)}"
            )
        if unrecognisable:
            notes.append(
                f"{len(unrecognisable)} regions are left out, whose answer about the class means "
                f"neither yes nor no: {listed(unrecognisable)}"
            )
        judges = {str(said[key].extra.get("judge", self.judge)) for key in regions}
        if judges - {self.judge}:
            notes.append(f"the record is that of the {' and '.join(sorted(judges))} judge")
        all_regions = "image" in judges  # its mean counts a region without negatives as 0
        for region in regions.values():
            region["pos"], region["neg"] = region["score_pos"], region["score_neg"]
            if region["neg"] is None and all_regions:
                region["neg"] = 0.0
            for name in ("pos", "neg"):
                if region[name] is None:
                    del region[name]
            if region.keys() >= {"pos", "neg"}:
                region["avg"] = (region["pos"] + region["neg"]) / 2
        pos = [region["pos"] for region in regions.values() if "pos" in region]
        neg = [region["neg"] for region in regions.values() if "neg" in region]
        table = {}
        if pos and neg:
            table = {"pos": sum(pos) / len(pos), "neg": sum(neg) / len(neg)}
            table["avg"] = (table["pos"] + table["neg"]) / 2
            notes += _pooled_note(regions, table)
            if count_note(items, 100, "regions", notes) and len(regions) == len(items):
                notes += contradictions(said, table, _published(judges))
        worst = [key for key, region in regions.items() if region["score"] <= 0]
        return Scores(
            table=table,
            items=regions,
            notes=tuple(notes),
            counts={"pos": len(pos), "neg": len(neg), "avg": len(regions)},
            failures=tuple(sorted(worst, key=lambda key: regions[key]["score"])),
        )

    def recorded(
        self, data: Path, record: Path
    ) -> tuple[list[Prediction], dict[tuple[str, str], str]]:
        """Read a published file of captions, or one of judged captions (of either judge)."""
        known = {item.id: item for item in self.items(data)}
        model = record.stem.removesuffix("_gpt").removesuffix("_eval")
        found = read_object(record, "record")
        predictions: list[Prediction] = []
        answers: dict[tuple[str, str], str] = {}
        for key, value in found.values.items():
            if key in _TOTALS:
                continue
            if key not in known:
                raise found.error(key, "is no region of the data")
            if isinstance(value, str):
                predictions.append(Prediction(item=key, text=value, model=model))
                continue
            region = found.row(key)
            judge = "text" if "neg_valid_num" in region else "image"
            predictions.append(
                Prediction(item=key, text=region.text("pred"), model=model, extra={"judge": judge})
            )
            names, responses = _keys(known[key]), region.texts("response")
            if len(names) != len(responses):
                raise region.error(
                    "response", f"expected {len(names)} answers, got {len(responses)}"
                )
            answers |= {(key, name): text for name, text in zip(names, responses, strict=True)}
        return predictions, answers

    def _parts(self, wording: str) -> Wording:
        return Wording(
            wording,
            {
                "message": ("description", "question"),
                "recognition_singular": ("a_class",),
                "recognition_plural": ("class",),
            },
        )

    def _recognition(self, parts: Wording, name: str) -> str:
        if is_plural(name):
            return parts.fill("recognition_plural", **{"class": name})
        return parts.fill("recognition_singular", a_class=indefinite(name))

    def _pictures(self, parts: Wording, item: Item, data: Path) -> list[Mapping[str, Any]]:
        return []


@dataclass(frozen=True, kw_only=True)
class DlcBenchImage(DlcBench):
    """With the judge that also sees the object, as published by GAR."""

    name: ClassVar[str] = "dlc-bench-image"
    summary: ClassVar[str] = "detailed captions of objects, questioned by a judge who sees them"
    template: ClassVar[str | None] = "dlc_bench_image.txt"

    judge: ClassVar[str] = "image"
    published: ClassVar[Mapping[str, Sequence[Published]]] = {
        "dam_3b_v1": (_printed("GAR's paper", (61.8, 83.4, 72.6), True),),
        "gar_1b": (
            _printed("the code's documentation", (0.662, 0.880, 0.771)),
            _printed("the paper", (66.2, 88.0, 77.1), True),
        ),
        "gar_8b": (
            _printed("the code's documentation", (0.680, 0.860, 0.770)),
            _printed("the paper", (68.0, 86.0, 77.0), True),
        ),
    }

    def _parts(self, wording: str) -> Wording:
        return Wording(
            wording,
            {
                "image": (),
                "mask": (),
                "message": ("description", "question"),
                "recognition": ("class",),
            },
        )

    def _recognition(self, parts: Wording, name: str) -> str:
        return parts.fill("recognition", **{"class": name})

    def _pictures(self, parts: Wording, item: Item, data: Path) -> list[Mapping[str, Any]]:
        picture = load_image(self.picture(item, data))  # type: ignore[arg-type]
        image, mask = crop_urls(picture, item.masks[0])
        return [
            text_part(parts.fill("image")),
            image_part(image),
            text_part(parts.fill("mask")),
            image_part(mask),
        ]


def _published(judges: Iterable[str]) -> Mapping[str, Sequence[Published]]:
    return DlcBenchImage.published if "image" in judges else DlcBench.published


def _places(name: str) -> tuple[str, str]:
    return name, f"annotations/{name}"


def _question(row: Row) -> Mapping[str, Any]:
    if row.text("type") not in _TYPES:
        raise row.error("type", f"expected one of {_TYPES}, got {row.values['type']!r}")
    choices = row.array("choices", least=2)
    for choice in choices:
        good = isinstance(choice, list) and len(choice) == 2
        if not (good and isinstance(choice[0], str) and isinstance(choice[1], (int, float))):
            raise row.error("choices", f"expected pairs of a text and a score, got {choice!r}")
    row.text("question")
    return row.values


def _texts(question: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(text for text, _ in question["choices"])


def _keys(item: Item) -> list[str]:
    return [_RECOGNITION, *map(str, range(len(item.row["questions"])))]


def _choices(item: Item, key: str) -> tuple[str, ...]:
    return _RECOGNITION_CHOICES if key == _RECOGNITION else _texts(item.row["questions"][int(key)])


def _read(answer: str, choices: Sequence[str]) -> int | None:
    """The choice that is meant; None also for the label of a choice that there is not."""
    index = parse_choice(answer, choices)
    return index if index is not None and index < len(choices) else None


def _score_region(item: Item, answers: Mapping[tuple[str, str], str]) -> dict[str, Any] | None:
    """The numbers of a region, or None where the answer about its class means nothing."""
    read = {key: _read(answers[item.id, key], _choices(item, key)) for key in _keys(item)}
    if read[_RECOGNITION] is None:
        return None
    recognised = read[_RECOGNITION] == _RECOGNITION_CHOICES.index("Yes")
    values: dict[str, list[float]] = {kind: [] for kind in _TYPES}
    for key, question in enumerate(item.row["questions"]):
        index = read[str(key)]
        value = 0.0 if index is None else float(question["choices"][index][1])
        values[question["type"]].append(value if recognised else min(0.0, value))
    positive, negative = values["positive"], values["negative"]
    return {
        "recognised": recognised,
        "score_pos": sum(positive) / len(positive) if positive else None,
        "score_neg": sum(negative) / len(negative) if negative else None,
        "score": sum(positive + negative) / len(positive + negative),
        "values": values,
        "read": read,
    }


def _pooled_note(regions: Mapping[str, Mapping[str, Any]], table: Mapping[str, float]) -> list[str]:
    pooled = {}
    for name, kind in (("pos", "positive"), ("neg", "negative")):
        values = [value for region in regions.values() for value in region["values"][kind]]
        pooled[name] = sum(values) / max(1, len(values))
    if all(round(pooled[name], 3) == round(table[name], 3) for name in pooled):
        return []
    return [
        "pos and neg are means of the regions' means, as the published code takes them; the paper "
        f"describes pooled ratios, here pos {pooled['pos']:.3f}, neg {pooled['neg']:.3f}"
    ]
