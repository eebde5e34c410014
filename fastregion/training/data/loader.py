"""Batches without end, which can be resumed at any of them.

Every sample is made by itself, in worker processes if there are any, and depends on the seed, the
epoch and the row alone; batches are filled in order by the process that trains. So neither the
number of workers nor what they had prepared when a run stopped can change a batch, and the state
of a run is one number: how many rows of the epoch are used up.
"""

from __future__ import annotations

import hashlib
import logging
import math
import multiprocessing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from fastregion.training.data.order import EpochOrder, sample_rng, substitute, text_lengths
from fastregion.training.data.record import Record
from fastregion.training.data.sources import Records, repeats_of
from fastregion.training.stopping import ignore_signals

__all__ = ["BatchLoader", "Item"]

_LOG = logging.getLogger(__name__)
_MOST_ATTEMPTS = 100  # rows tried in the place of one that cannot be read
_PREFETCHED = 4  # samples a worker is ahead
_PROBED = 256  # rows whose tokens tell how many batches an epoch has
_NAMED = 64  # rows whose names tell the data apart


class Item(NamedTuple):
    """A batch and what it holds.

    Attributes:
        batch: what ``collate`` made.
        samples: how many there are.
        tokens: of all samples.
        epoch: that its rows belong to, from 0.
        ends_epoch: whether the epoch has no further batch.
    """

    batch: Any
    samples: int
    tokens: int
    epoch: int
    ends_epoch: bool


class _Key(NamedTuple):
    """A row's place in the order."""

    epoch: int
    position: int
    row: int
    copy: int
    last: bool  # of its epoch


class _Made(NamedTuple):
    """A sample, and why other rows could not be made one."""

    key: _Key
    sample: Any
    tokens: int
    failures: tuple[str, ...]


class BatchLoader:
    """Batches of one process, epoch after epoch.

    Args:
        records: the rows.
        sample: makes a row ready; all chance comes from the generator that it is given.
        num_tokens: the length of a sample.
        collate: makes a batch of samples.
        seed: of order and samples.
        samples_per_batch: how many samples a batch has; the last of an epoch may have fewer.
        tokens_per_batch: or how many tokens at most: samples go into a batch in their order, until
            the next one does not fit. A sample that is longer is a batch by itself.
        num_workers: processes that make samples; 0 makes them in this one.
        process: which of the training processes this is.
        num_processes: how many there are; in an epoch no two are given the same sample.
        group_by_length: batches have rows of similar length; only with ``samples_per_batch``.

    Attributes:
        bad_rows: how many rows were replaced by others, because they could not be read.

    Raises:
        ValueError: a number out of range, or neither or both sizes of a batch.
    """

    def __init__(
        self,
        records: Records,
        *,
        sample: Callable[[Record, np.random.Generator], Any],
        num_tokens: Callable[[Any], int],
        collate: Callable[[Sequence[Any]], Any],
        seed: int,
        samples_per_batch: int | None = None,
        tokens_per_batch: int | None = None,
        num_workers: int = 0,
        process: int = 0,
        num_processes: int = 1,
        group_by_length: bool = False,
    ) -> None:
        if (samples_per_batch is None) == (tokens_per_batch is None):
            raise ValueError("samples_per_batch, tokens_per_batch: give exactly one of them")
        for name, value, least in (
            ("samples_per_batch", samples_per_batch, 1),
            ("tokens_per_batch", tokens_per_batch, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        if group_by_length and samples_per_batch is None:
            raise ValueError("group_by_length: needs samples_per_batch; packed batches need it not")
        self._order = EpochOrder(
            repeats=repeats_of(records),
            seed=seed,
            process=process,
            num_processes=num_processes,
            lengths=text_lengths(records) if group_by_length else None,
            batch_size=(samples_per_batch or 1) * num_processes,
        )
        self._samples = _Samples(records, sample, num_tokens, seed)
        self._collate = collate
        self._count, self._budget = samples_per_batch, tokens_per_batch
        self._num_workers = num_workers
        self._epoch = self._position = self.bad_rows = 0
        self._belongs_to = {
            "data": _fingerprint(records),
            "seed": seed,
            "process": process,
            "num_processes": num_processes,
            "samples_per_batch": samples_per_batch,
            "tokens_per_batch": tokens_per_batch,
            "group_by_length": group_by_length,
        }
        self._running: Generator[Item, None, None] | None = None

    def __iter__(self) -> Iterator[Item]:
        """Batches from behind the last one that was handed out; ends what iterated before."""
        self.close()
        self._running = self._batches()
        return self._running

    def _batches(self) -> Generator[Item, None, None]:
        gathered: list[_Made] = []
        for one in self._made(self._epoch, self._position):
            if gathered and self._budget is not None and _tokens(gathered, one) > self._budget:
                yield self._item(gathered)
                gathered = []
            gathered.append(one)
            if one.key.last or len(gathered) == self._count:
                yield self._item(gathered)
                gathered = []

    def _made(self, epoch: int, position: int) -> DataLoader[_Made]:
        """Samples in their order, from a place on."""
        workers = self._num_workers
        return DataLoader(
            self._samples,
            batch_size=None,
            sampler=_Keys(self._order, epoch, position),
            num_workers=workers,
            collate_fn=_unchanged,
            prefetch_factor=_PREFETCHED if workers else None,
            multiprocessing_context=_context() if workers else None,
            worker_init_fn=ignore_signals if workers else None,
            # Its own: drawing the workers' seeds must not move torch's generator.
            generator=torch.Generator().manual_seed(self._order.seed),
        )

    def _item(self, gathered: Sequence[_Made]) -> Item:
        key = gathered[-1].key
        for one in gathered:
            for failure in one.failures:
                _LOG.warning("%s; another row takes its place", failure)
            self.bad_rows += len(one.failures)
        batch = self._collate([one.sample for one in gathered])
        self._epoch = key.epoch + key.last
        self._position = 0 if key.last else key.position + 1
        return Item(batch, len(gathered), _tokens(gathered), key.epoch, key.last)

    def state_dict(self) -> dict[str, Any]:
        """Where the batches are that were handed out, JSON-able."""
        place = {"epoch": self._epoch, "position": self._position, "bad_rows": self.bad_rows}
        return {**self._belongs_to, **place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it is of other data, or of a loader with other settings.
        """
        for name, value in self._belongs_to.items():
            if state.get(name) != value:
                raise ValueError(
                    f"state: {name}: expected {value!r} as now, got {state.get(name)!r}; a run "
                    "goes on with the data, the seed, the batches and the processes it began with"
                )
        self.close()
        self._epoch, self._position = state["epoch"], state["position"]
        self.bad_rows = state["bad_rows"]

    def batches_per_epoch(self) -> int:
        """How many batches an epoch of this process has.

        Exact for batches of samples. Batches of tokens are estimated: the first 256 rows of the
        first epoch are put into batches; if an epoch has no more rows, that one is exact.
        """
        rows = self._order.per_epoch
        if self._count is not None:
            return -(-rows // self._count)
        assert self._budget is not None
        batches = filled = in_batches = 0
        probed = min(rows, _PROBED)
        for one in islice(self._made(0, 0), probed):
            if filled and filled + one.tokens > self._budget:
                batches, in_batches, filled = batches + 1, in_batches + filled, 0
            filled += one.tokens
        if probed == rows:
            return batches + 1
        # The batch that is not full yet counts by what the full ones hold.
        part = filled / (in_batches / batches if batches else self._budget)
        return math.ceil((batches + part) * rows / probed)

    def close(self) -> None:
        """End the workers."""
        if self._running is not None:
            self._running.close()
            self._running = None


class _Keys(Sampler[_Key]):
    """The order without end, from a place on."""

    def __init__(self, order: EpochOrder, epoch: int, position: int) -> None:
        self._order, self._epoch, self._position = order, epoch, position

    def __iter__(self) -> Iterator[_Key]:
        epoch, position = self._epoch, self._position
        while True:
            rows = self._order.rows(epoch)
            for place in range(position, len(rows)):
                row, copy = rows[place].tolist()
                yield _Key(epoch, place, row, copy, last=place == len(rows) - 1)
            epoch, position = epoch + 1, 0


class _Samples(Dataset[_Made]):
    """Samples by their place in the order."""

    def __init__(
        self,
        records: Records,
        sample: Callable[[Record, np.random.Generator], Any],
        num_tokens: Callable[[Any], int],
        seed: int,
    ) -> None:
        self._records, self._sample, self._num_tokens = records, sample, num_tokens
        self._seed = seed

    def __getitem__(self, key: _Key) -> _Made:
        failures: list[str] = []
        row = key.row
        rng = sample_rng(self._seed, key.epoch, key.row, key.copy)
        while True:
            try:
                sample = self._sample(self._records[row], rng)
                return _Made(key, sample, self._num_tokens(sample), tuple(failures))
            except MemoryError:
                raise
            except Exception as error:  # whatever a row from outside brings about
                failures.append(f"{self._records.name(row)}: {type(error).__name__}: {error}")
                if len(failures) > _MOST_ATTEMPTS:
                    raise RuntimeError(
                        f"data: {failures[0]}; nor can {_MOST_ATTEMPTS} other rows be read"
                    ) from error
                row = substitute(self._seed, key.epoch, row, len(failures), len(self._records))


def _tokens(gathered: Sequence[_Made], *more: _Made) -> int:
    return sum(one.tokens for one in (*gathered, *more))


def _unchanged(made: Any) -> Any:
    return made


def _context() -> str | None:
    """Forked where that can be done: tasks need not be pickled, and share what is loaded."""
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else None


def _fingerprint(records: Records) -> str:
    """Tells data apart: the number of rows, and the names of some."""
    count = len(records)
    some = range(0, count, max(count // _NAMED, 1))
    names = "\n".join(records.name(row) for row in some)
    return f"{count} rows, {hashlib.sha256(names.encode()).hexdigest()[:16]}"
