"""HC-STVG: what a person in a video does, in one sentence.

Data: ``hc_stvg.json`` or ``hc_stvg.jsonl``: rows with ``video_name``, ``caption``, ``frame_path``
(the pictures of the clip's frames, relative to the folder) and ``track_list`` (a box in each,
x0, y0, x1, y1 in pixels): the fields of the published protocol (Artemis).

Verified: the metrics, each by its own tests.
Not verified: the name of the file, the convention of the boxes and the types of the fields, of
which no file was at hand; DAM's query and its choice of frames. The published code leaves out
clips whose prediction has at most 5 or at least 300 characters, and lets clips of one name replace
each other: ``released=true`` does the former too; the names of clips must differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fastregion.evaluation.benchmarks.base import Benchmark, Item, Prediction, Query, Scores
from fastregion.evaluation.benchmarks.caption_metrics import COCO_METRICS, caption_scores
from fastregion.evaluation.benchmarks.notes import listed, predicted_items
from fastregion.evaluation.benchmarks.rows import Row, find_file, read_rows

__all__ = ["HcStvg"]

_LENGTHS = range(6, 300)  # characters of a prediction that the published code scores


@dataclass(frozen=True, kw_only=True)
class HcStvg(Benchmark):
    """See the module.

    Attributes:
        released: leave out very short and very long predictions, as the published code does.
    """

    name: ClassVar[str] = "hc-stvg"
    summary: ClassVar[str] = "what a person in a video does, in one sentence"
    version: ClassVar[int] = 1

    released: bool = False

    def items(self, data: Path) -> list[Item]:
        """The clips, in the order of the file."""
        return [_item(row) for row in read_rows(find_file(data, "hc_stvg.json", "hc_stvg.jsonl"))]

    def query(self, item: Item, model_type: str) -> Query:
        """The model's own description prompt."""
        return Query()

    def score(
        self,
        items: Sequence[Item],
        predictions: Mapping[str, Prediction],
        answers: Mapping[tuple[str, str], str],
    ) -> Scores:
        """The metrics of COCO's caption evaluation, one reference a clip."""
        notes: list[str] = []
        said = predicted_items(items, predictions, notes)
        if self.released:
            odd = [item.id for item in said if len(predictions[item.id].text) not in _LENGTHS]
            said = [item for item in said if len(predictions[item.id].text) in _LENGTHS]
            if odd:
                notes.append(
                    f"released: {len(odd)} clips are left out for the length of their prediction: "
                    f"{listed(odd)}"
                )
        return caption_scores(
            COCO_METRICS,
            {item.id: predictions[item.id].text for item in said},
            {item.id: (item.row["caption"],) for item in said},
            notes,
        )


def _item(row: Row) -> Item:
    frames, boxes = row.texts("frame_path", least=1), row.array("track_list")
    if len(frames) != len(boxes):
        raise row.error(
            "track_list", f"expected {len(frames)} boxes, one a frame, got {len(boxes)}"
        )
    return Item(
        id=row.text("video_name"),
        frames=frames,
        masks=tuple(_box(row, index, box) for index, box in enumerate(boxes)),
        row={"caption": row.text("caption")},
    )


def _box(row: Row, index: int, box: Any) -> tuple[float, ...]:
    key = f"track_list[{index}]"
    x0, y0, x1, y1 = Row({key: box}, row.where).numbers(key, 4)
    if x1 <= x0 or y1 <= y0:
        raise row.error(key, f"expected x0 < x1 and y0 < y1, got {box}")
    return x0, y0, x1, y1
