"""GAR's training dialogues: rows become turns in which regions have names.

A row whose texts name regions (``<Prompt0>``) asks about their relations and stays as it is. Of any
other row with regions only the captions count: each is the answer to a prompt of our own, under a
name drawn for its region. A row without regions is about the whole picture.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastregion.models.gar.prompts import (
    dialogue_intro,
    named_regions,
    question_text,
    region_name,
    turn_text,
)
from fastregion.training.data import BadRow, Record, Turn
from fastregion.training.data.augmentation import gar_prompt, python_random
from fastregion.training.texts import question_turns, region_captions

__all__ = ["Dialogue", "caption_dialogue", "make_dialogue", "relation_dialogue"]

_NEGATIVE_SHARE = 0.05  # of regions after the first, before which an absent one is asked about
_SPECIAL_TOKEN = re.compile(r"<\|[^|]*\|>")

Block = Callable[[int], str]


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """Turns, and the regions that have a name in them.

    Attributes:
        turns: pairs of role and text, placeholders of regions included.
        regions: by the number of its name, the index of each region in its row; empty where the
            dialogue is about the whole picture.
    """

    turns: tuple[tuple[str, str], ...]
    regions: Mapping[int, int]


def make_dialogue(record: Record, rng: np.random.Generator, block: Block, names: int) -> Dialogue:
    """The dialogue of a row.

    Args:
        record: the row.
        rng: what decides about names, prompts and equally good captions.
        block: the placeholders of a name.
        names: how many names there are.

    Raises:
        BadRow: texts are missing or do not alternate, a named region does not exist, or a special
            token is part of a text.
    """
    for text in (*(t.text for t in record.turns), *(t for c in record.captions for t in c)):
        if found := _SPECIAL_TOKEN.search(text):
            raise BadRow(f"text: must not contain the special token {found[0]!r}")
    if not record.num_regions:
        return Dialogue(turns=_roles(question_turns(record.turns)), regions={})
    if any(named_regions(turn.text) for turn in record.turns):
        return relation_dialogue(record.turns, record.num_regions, block, names)
    captions = region_captions(record, rng)
    return caption_dialogue(captions, python_random(rng), block, names)


def caption_dialogue(
    captions: Sequence[str], draws: random.Random, block: Block, names: int
) -> Dialogue:
    """Ask for one caption after the other, and sometimes about a region that is not there.

    One name at least remains unused, so captions of further regions are left out.

    Args:
        captions: one for each region, at least one.
        draws: draws in the published order.
        block: as for :func:`make_dialogue`.
        names: as for :func:`make_dialogue`.
    """
    order = list(range(names))
    draws.shuffle(order)
    used = order[: min(len(captions), names - 1)]
    absent = region_name(order[len(used)])  # the first unused one of the shuffle, as published
    turns: list[tuple[str, str]] = []
    asked_about_absent = False
    for number, (name, caption) in enumerate(zip(used, captions, strict=False)):
        if number and not asked_about_absent and draws.random() < _NEGATIVE_SHARE:
            asked_about_absent = True
            turns.append(("user", f"{absent}: {gar_prompt(caption, draws)}"))
            turns.append(("assistant", f"{absent} is not in the image."))
        intro = "" if number else dialogue_intro(used)
        prompt = turn_text(name, block(name), gar_prompt(caption, draws))
        turns += [("user", intro + prompt), ("assistant", caption)]
    return Dialogue(turns=tuple(turns), regions={name: index for index, name in enumerate(used)})


def relation_dialogue(
    turns: Sequence[Turn], num_regions: int, block: Block, names: int
) -> Dialogue:
    """Show the regions that the texts name in front of the first question.

    Args:
        turns: of the row; name k is the row's region k.
        num_regions: of the row.
        block: as for :func:`make_dialogue`.
        names: as for :func:`make_dialogue`.

    Raises:
        BadRow: turns that do not alternate, a name that no region has, or more than there are.
    """
    asked = question_turns(turns)
    named = list(dict.fromkeys(k for turn in asked for k in named_regions(turn.text)))
    for name in named:
        if name >= num_regions:
            raise BadRow(
                f"turns: {region_name(name)} is named, but there are {num_regions} regions"
            )
        if name >= names:
            raise BadRow(
                f"turns: {region_name(name)} is named, but there are {names} names",
                "too many regions",
            )
    first = question_text(named, [block(name) for name in named], asked[0].text)
    return Dialogue(
        turns=(("user", first), *_roles(asked)[1:]), regions={name: name for name in named}
    )


def _roles(turns: Sequence[Turn]) -> tuple[tuple[str, str], ...]:
    roles = {"human": "user", "gpt": "assistant"}
    return tuple((roles[turn.speaker], turn.text) for turn in turns)
