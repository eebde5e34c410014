"""In which order rows are trained on: a function of the seed, the epoch and the process alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fastregion.training.data.sources import Records

__all__ = ["EpochOrder", "sample_rng", "substitute", "text_lengths"]

_GROUPED_BATCHES = 50  # batches whose rows are sorted by length together
_ORDER, _SAMPLE, _SUBSTITUTE = range(3)  # what a generator is for


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """The rows of one process, epoch by epoch.

    All rows of an epoch are put in a random order and dealt to the processes in turn; those that do
    not go round are left out, other ones each epoch.

    Attributes:
        repeats: how often each row comes in an epoch, float64 ``[N]``. A fraction f means once more
            in the share f of the epochs: among the rows of the same f, so many are drawn for each
            epoch, one at least, that their number is always the same.
        seed: of the order.
        process: which process this is.
        num_processes: how many there are.
        lengths: of every row, int64 ``[N]``; where they are given, rows of similar length come
            together.
        batch_size: rows that all processes take at a time; only where lengths are given.
    """

    repeats: NDArray[np.float64]
    seed: int
    process: int = 0
    num_processes: int = 1
    lengths: NDArray[np.int64] | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.num_processes:
            raise ValueError(
                f"process: expected one of 0 to {self.num_processes - 1}, got {self.process}"
            )
        if not self.per_epoch:
            raise ValueError(
                f"data: an epoch has fewer rows than there are processes ({self.num_processes})"
            )

    @cached_property
    def per_epoch(self) -> int:
        """How many rows this process trains on in an epoch."""
        return int(self._times(_generator(self.seed, _ORDER, 0)).sum()) // self.num_processes

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """The rows of an epoch, int64 ``[per_epoch, 2]``: the row, and which of its copies."""
        rng = _generator(self.seed, _ORDER, epoch)
        times = self._times(rng)
        row = np.repeat(np.arange(len(times)), times)
        first = np.cumsum(times) - times  # where a row's copies begin
        copy = np.arange(len(row)) - first[row]
        order = rng.permutation(len(row))
        if self.lengths is not None:
            order = _grouped(order, self.lengths[row], self.batch_size)
        taken = order[: self.per_epoch * self.num_processes][self.process :: self.num_processes]
        return np.stack((row[taken], copy[taken]), axis=1)

    def _times(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """How often each row comes in an epoch."""
        times = np.floor(self.repeats).astype(np.int64)
        part = self.repeats - times
        for share in np.unique(part[part > 0]):
            candidates = np.flatnonzero(part == share)
            count = max(round(float(share) * len(candidates)), 1)
            times[rng.permutation(candidates)[:count]] += 1
        return times


def _grouped(
    order: NDArray[np.int64], lengths: NDArray[np.int64], batch_size: int
) -> NDArray[np.int64]:
    """Rows of similar length together: groups of batches, each sorted from long to short.

    As the library transformers groups by length; the longest row of all comes first, so that a
    batch that does not fit into memory is found at once.
    """
    size = batch_size * max(min(len(order) // (batch_size * 4), _GROUPED_BATCHES), 1)
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    groups = [group[np.argsort(-lengths[group], kind="stable")] for group in groups]
    longest = int(np.argmax([lengths[group[0]] for group in groups]))
    groups[0][0], groups[longest][0] = groups[longest][0], groups[0][0]
    return np.concatenate(groups)


def sample_rng(seed: int, epoch: int, row: int, copy: int) -> np.random.Generator:
    """All chance of one sample."""
    return _generator(seed, _SAMPLE, epoch, row, copy)


def substitute(seed: int, epoch: int, row: int, attempt: int, num_rows: int) -> int:
    """The row that is taken in the place of one that cannot be read."""
    return int(_generator(seed, _SUBSTITUTE, epoch, row, attempt).integers(num_rows))


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *key))))


def text_lengths(records: Records) -> NDArray[np.int64]:
    """Characters of each row's texts, int64 ``[N]``: what rows are grouped by.

    Tokens of a picture are as good as the same for all rows. A row that cannot be read has 0.
    """
    lengths = np.zeros(len(records), np.int64)
    for row in range(len(records)):
        try:
            record = records[row]
        except (ValueError, OSError):
            continue
        said = sum(len(turn.text) for turn in record.turns)
        lengths[row] = said + sum(max(map(len, captions)) for captions in record.captions)
    return lengths
