"""What systems make of a row's texts, whatever their prompts look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np

from fastregion.language import IGNORED_LABEL
from fastregion.training.data import BadRow, Record, Turn

__all__ = ["question_turns", "readable", "region_captions"]

_IMAGE_TAG = "<image>"  # where published rows show the picture, which prompts show by themselves


def region_captions(record: Record, rng: np.random.Generator) -> list[str]:
    """One caption for each region, drawn where there are several equally good ones.

    Those of a row with a dialogue are its answers; what was asked does not count.

    Raises:
        BadRow: no region, fewer captions than regions, or one without text.
    """
    if not record.num_regions:
        raise BadRow("regions: expected at least one region, got none", "empty mask")
    if record.captions:
        captions = [_one_of(texts, rng) for texts in record.captions]
    else:
        captions = [turn.text for turn in record.turns if turn.speaker == "gpt"]
    if len(captions) < record.num_regions:
        raise BadRow(
            f"captions: expected one for each of {record.num_regions} regions, got {len(captions)}",
            "no text",
        )
    for index, caption in enumerate(captions[: record.num_regions]):
        if not caption.strip():
            raise BadRow(f"captions: expected text, got none for region {index}", "no text")
    return captions[: record.num_regions]


def _one_of(texts: Sequence[str], rng: np.random.Generator) -> str:
    if len(texts) < 2:  # nothing is drawn where there is no choice
        return texts[0] if texts else ""
    return texts[int(rng.integers(len(texts)))]


def question_turns(turns: Sequence[Turn]) -> list[Turn]:
    """The turns of a dialogue that asks and answers, without the tag of the picture.

    Raises:
        BadRow: no answer, turns that do not alternate, a blank one, a system's turn, or a tag
            anywhere but in the first line.
    """
    if not turns:
        raise BadRow("turns: expected a question and an answer, got none", "no text")
    expected = ("human", "gpt")
    for index, turn in enumerate(turns):
        if turn.speaker != expected[index % 2]:
            raise BadRow(
                f"turns: expected {expected[index % 2]!r} at {index}, got {turn.speaker!r}"
            )
    if len(turns) % 2:
        raise BadRow("turns: the last question has no answer", "no text")
    first = turns[0].text
    for tag in (f"{_IMAGE_TAG}\n", f"\n{_IMAGE_TAG}"):
        first = first.replace(tag, "", 1) if _IMAGE_TAG in first else first
    found = [Turn(speaker="human", text=first), *turns[1:]]
    for index, turn in enumerate(found):
        if _IMAGE_TAG in turn.text:
            raise BadRow(
                f"turns: expected {_IMAGE_TAG!r} once, in the first line, got it at {index}"
            )
        if not turn.text.strip():
            raise BadRow(f"turns: expected text, got none at {index}", "no text")
    return found


def readable(
    input_ids: Sequence[int],
    labels: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    placeholders: Mapping[int, str],
) -> str:
    """A sample as text, what is learned between ``[[`` and ``]]``.

    Args:
        input_ids: of the sample.
        labels: ids that are learned, -100 elsewhere.
        decode: ids to text, special tokens included.
        placeholders: names of ids that stand for features; runs of them are counted.
    """
    pieces = []

    def kind(place: int) -> tuple[bool, str | None]:
        return labels[place] != IGNORED_LABEL, placeholders.get(input_ids[place])

    for (learned, name), run in groupby(range(len(input_ids)), kind):
        ids = [input_ids[place] for place in run]
        text = decode(ids) if name is None else name if len(ids) == 1 else f"{name}*{len(ids)}"
        pieces.append(f"[[{text}]]" if learned else text)
    return "".join(pieces)
