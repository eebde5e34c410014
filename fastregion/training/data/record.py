"""A row of training data as every reader gives it and every system takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from fastregion.images import RgbImage
from fastregion.regions import Region

__all__ = ["FAULTS", "BadRow", "Fault", "Record", "Turn"]

Fault = Literal[
    "malformed row",
    "missing file",
    "unreadable picture",
    "malformed mask",
    "size mismatch",
    "empty mask",
    "no text",
    "duplicate id",
    "too many regions",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)


class BadRow(ValueError):
    """A row that cannot be trained on; the message says why, without the row's name.

    Attributes:
        kind: what bad rows are counted by.
    """

    def __init__(self, message: str, kind: Fault = "malformed row") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a dialogue.

    Attributes:
        speaker: ``"system"``, ``"human"`` or ``"gpt"``, the published names.
        text: as the row has it.
    """

    speaker: Literal["system", "human", "gpt"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A picture, regions of it, and what is said about them.

    Pixels and masks are read when they are asked for, in the process that trains on them.

    Attributes:
        id: names the row among all rows of its source, for messages and for telling duplicates.
        image: reads the picture, uint8 RGB ``[H, W, 3]``; raises :class:`BadRow`, or what
            ``load_image`` raises.
        regions: reads the regions, in the order in which ``<Prompt0>``, ``<Prompt1>``, ... or the
            captions speak of them; raises :class:`BadRow`.
        num_regions: how many regions there are, known without reading them.
        turns: the dialogue; empty where the row holds captions alone.
        captions: one for each region, a tuple of equally good ones; empty where the row holds a
            dialogue.
        category_ids: COCO's category of each region; empty where the row has none.
        class_names: what each region is called; empty where the row does not say.
        size: reads the picture's (height, width) without decoding its pixels, and raises what
            ``image`` raises; None where that cannot be done.
        jpeg_augmentation: whether its tiles are to be recompressed, as URECA's data sets ask for.
        max_tiles: the most tiles of its picture, where URECA's data set has a limit of its own.
    """

    id: str
    image: Callable[[], RgbImage]
    regions: Callable[[], tuple[Region, ...]]
    num_regions: int
    turns: tuple[Turn, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    category_ids: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()
    size: Callable[[], tuple[int, int]] | None = None
    jpeg_augmentation: bool = False
    max_tiles: int | None = None
