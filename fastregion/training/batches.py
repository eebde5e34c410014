"""What the loop asks of whatever gives it batches: an endless stream that can be taken up again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Batches", "Item", "Loading"]


class Item(Protocol):
    """A batch, and how much is in it."""

    @property
    def batch(self) -> Any:
        """What ``Task.collate`` made, on the CPU."""

    @property
    def samples(self) -> int:
        """How many samples."""

    @property
    def tokens(self) -> int:
        """How many tokens of the decoder."""

    @property
    def epoch(self) -> int:
        """Which pass through the rows, from 0."""


class Batches(Protocol):
    """The batches of one process, endless; :class:`fastregion.training.data.BatchLoader` is one."""

    def __iter__(self) -> Iterator[Item]: ...

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, JSON-able: behind what was given out, not what was prepared."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go there, before the first batch.

        Raises:
            ValueError: the state is that of other data, another seed or number of processes.
        """

    def batches_per_epoch(self) -> int:
        """Of this process.

        Raises:
            ValueError: the stream has no end.
        """

    def close(self) -> None:
        """End the workers."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a process wants its batches.

    Attributes:
        seed: of order and chance.
        process: which one it is.
        num_processes: of how many.
        num_workers: processes that make them ready.
        batch_size: samples in one; or
        batch_tokens: the most tokens in one.
        group_by_length: put samples of like length together.
    """

    seed: int
    process: int
    num_processes: int
    num_workers: int
    batch_size: int | None
    batch_tokens: int | None
    group_by_length: bool = False
