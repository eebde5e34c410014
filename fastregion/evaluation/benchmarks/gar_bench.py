"""What GAR-Bench-VQA and GAR-Bench-Cap share: how the published code asks GAR itself.

That is not how GAR was trained: a stale loop variable has every region of a question replayed from
the box of the last one, and some questions are about more regions than GAR has names for. The
published numbers of GAR rest on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastregion.evaluation.benchmarks.base import Benchmark, Item, Prediction, Query
from fastregion.evaluation.benchmarks.decoding import decoding

__all__ = ["GarBench", "switch_notes"]

_SWITCHES = {"GAR": {"boxes": "released"}}  # by model type; see GarCaptioner
_NAMES = 5  # of regions, that the published models have


@dataclass(frozen=True, kw_only=True)
class GarBench(Benchmark):
    """A part of GAR-Bench.

    Attributes:
        released: ask GAR as the published code does; if not, as it was trained: every region is
            replayed from its own box, and questions about more regions than there are names for
            stay without an answer. Other models are asked in one way.
    """

    released: bool = True

    def asked(self, prompt: str, model_type: str) -> Query:
        """A prompt about all regions of an item at once."""
        switches = _SWITCHES.get(model_type, {}) if self.released else {}
        return Query(prompt=prompt, joint=True, options=decoding(model_type), switches=switches)


def switch_notes(items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[str]:
    """Say where answers rest on the published way of asking.

    Args:
        items: what was answered.
        predictions: by item id.
    """
    several = [
        len(item.masks)
        for item in items
        if len(item.masks) > 1 and "switches" in predictions[item.id].extra
    ]
    if not several:
        return []
    notes = [
        f"asked as in the published evaluation of GAR (released=true): in {len(several)} items "
        "about several regions each of them is replayed from the box of the last one"
    ]
    if many := sum(count > _NAMES for count in several):
        notes.append(
            f"{many} items are about more than the {_NAMES} regions that GAR has names for; the "
            "others of these regions are neither marked in the picture nor replayed, as published"
        )
    return notes
