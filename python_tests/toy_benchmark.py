"""A benchmark of a few grey pictures, and its model: no weights, no doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from fastregion.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    JudgeCall,
    Prediction,
    Query,
    Scores,
)

PICTURES, REGIONS = 4, 2


@dataclass(frozen=True, kw_only=True)
class Toy(Benchmark):
    """Two regions a picture; the judge repeats what it is told, and that is right."""

    name: ClassVar[str] = "toy"
    version: ClassVar[int] = 3
    judged: ClassVar[bool] = True

    attempts: int = 1

    def items(self, data: Path) -> Sequence[Item]:
        return [
            Item(
                id=f"{picture}-{region}",
                image=f"{picture}.png",
                masks=((2 * region, 1, 2 * region + 2, 5),),
                group="left" if region == 0 else "right",
            )
            for picture in range(PICTURES)
            for region in range(REGIONS)
        ]

    def query(self, item: Item, model_type: str) -> Query:
        return Query(prompt="what?")

    def judge_calls(
        self, item: Item, prediction: Prediction, wording: str, data: Path
    ) -> Sequence[JudgeCall]:
        return [
            JudgeCall(
                item=item.id,
                key=key,
                messages=[{"role": "user", "content": f"{key}: {prediction.text}"}],
                options={"temperature": 0},
                attempts=self.attempts,
            )
            for key in ("one", "two")
        ]

    def readable(self, item: Item, key: str, answer: str) -> bool:
        return answer.startswith("echo ")

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        found = {
            item.id: {
                "right": answers.get((item.id, "one")) == f"echo one: {predictions[item.id].text}",
                "length": len(predictions[item.id].text),
            }
            for item in items
        }
        lengths = [numbers["length"] for numbers in found.values()]
        return Scores(
            table={
                "right": sum(numbers["right"] for numbers in found.values()) / len(found),
                "length": sum(lengths) / len(lengths),
                "longest": max(lengths),
            },
            items=found,
            counts={"right": len(found)},
            lower_is_better=frozenset(("length",)),
            failures=tuple(name for name, numbers in found.items() if not numbers["right"]),
        )

    def recorded(
        self, data: Path, record: Path
    ) -> tuple[Sequence[Prediction], Mapping[tuple[str, str], str]]:
        texts = dict(line.split("\t") for line in record.read_text().splitlines())
        predictions = [
            Prediction(item=item, text=text, model="old") for item, text in texts.items()
        ]
        return predictions, {(item, "one"): f"echo one: {text}" for item, text in texts.items()}


class Teller:
    """Says where a region is and what it was asked."""

    model_type = "teller"

    def __init__(self, *, stop_after: int | None = None, model_id: str = "teller") -> None:
        self.model_id = model_id
        self.calls: list[tuple[str, int, dict[str, Any]]] = []
        self.stop_after = stop_after

    def describe(
        self, image: Any, regions: Sequence[Any], prompt: str | None = None, **options: Any
    ) -> list[str]:
        if len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((Path(image).name, len(regions), options))
        return [f"{Path(image).stem} at {list(region)} {prompt}" for region in regions]

    def ask(self, image: Any, regions: Sequence[Any], question: str, **options: Any) -> str:
        return f"{len(regions)} {question}"


def write_pictures(folder: Path) -> Path:
    """The toy's data."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in range(PICTURES):
        pixels = np.full((6, 8, 3), 40 * picture, np.uint8)
        Image.fromarray(pixels).save(folder / f"{picture}.png")
    return folder
