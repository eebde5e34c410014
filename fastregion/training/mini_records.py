"""Training samples of mini from rows of one's own."""

from __future__ import annotations

from collections.abc import Sequence

from fastregion.models.mini.captioner import DEFAULT_INSTRUCTION
from fastregion.models.mini.config import MiniConfig
from fastregion.models.mini.processing import Mask, TileCutter
from fastregion.scenes.wording import Exchange
from fastregion.training.data import BadRow, Record, Turn
from fastregion.training.mini_data import Sample
from fastregion.training.mini_facts import unknown_facts


def record_samples(record: Record, config: MiniConfig) -> tuple[Sample, ...]:
    """The prompts of a row: one for each captioned region, or one about all regions of a dialogue.

    Of several equally good captions each is learned. A region's facts are not known.

    Raises:
        BadRow: a dialogue about more regions than mini has names for, or one in which question and
            answer do not take turns.
    """
    most = len(config.region_token_ids)
    if record.turns and not 1 <= record.num_regions <= most:
        raise BadRow(f"expected a dialogue about 1 to {most} regions, got {record.num_regions}")
    cutter = TileCutter(record.image(), config)
    masks = [region.mask for region in record.regions()]
    if record.turns:
        return (_prompt(cutter, masks, _dialogue(record.turns)),)
    return tuple(
        _prompt(cutter, [mask], [Exchange(DEFAULT_INSTRUCTION, caption) for caption in captions])
        for mask, captions in zip(masks, record.captions, strict=True)
    )


def _prompt(cutter: TileCutter, masks: Sequence[Mask], texts: Sequence[Exchange]) -> Sample:
    return Sample(
        tiles=cutter.cut(masks), facts=(unknown_facts(),) * len(masks), exchanges=tuple(texts)
    )


def _dialogue(turns: Sequence[Turn]) -> list[Exchange]:
    spoken = [turn for turn in turns if turn.speaker != "system"]
    asked, answered = spoken[::2], spoken[1::2]
    if len(asked) != len(answered) or any(
        (a.speaker, b.speaker) != ("human", "gpt") for a, b in zip(asked, answered, strict=True)
    ):
        raise BadRow("expected turns of human and gpt by turns, each question with its answer")
    return [Exchange(a.text, b.text) for a, b in zip(asked, answered, strict=True)]
