"""Batches: the same for any number of workers, and after a stop at any place."""

from __future__ import annotations

import json
import logging
import os
import signal
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
import torch

from fastregion.training.data import BadRow, BatchLoader, Item, Record, Turn

COUNT = 23
BROKEN = (4, 11)


class Numbers:
    """Rows that are numbers; some cannot be read."""

    def __init__(self, count: int = COUNT, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self.count:
            raise IndexError(index)

        def regions() -> tuple[Any, ...]:
            if index in self.broken:
                raise BadRow("mask: is empty", "empty mask")
            return ()

        return Record(
            id=str(index),
            image=lambda: np.zeros((1, 1, 3), np.uint8),
            regions=regions,
            num_regions=0,
            turns=(Turn(speaker="gpt", text="x" * (index * 3 + 1)),),
        )

    def name(self, index: int) -> str:
        return f"number {index}"


def sample(record: Record, rng: np.random.Generator) -> tuple[int, float]:
    record.regions()
    return int(record.id), rng.random()


def num_tokens(made: tuple[int, float]) -> int:
    return made[0] + 1


def loader(records: Any = None, **more: Any) -> BatchLoader:
    if not {"samples_per_batch", "tokens_per_batch"} & more.keys():
        more["samples_per_batch"] = 4
    defaults = {"sample": sample, "num_tokens": num_tokens, "collate": list, "seed": 0}
    return BatchLoader(records or Numbers(), **{**defaults, **more})


def taken(batches: BatchLoader, count: int) -> list[Item]:
    found = list(islice(batches, count))
    batches.close()
    return found


SIZES = [{"samples_per_batch": 4}, {"tokens_per_batch": 40}]


@pytest.mark.parametrize("size", SIZES, ids=["samples", "tokens"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_anywhere(size: dict[str, int], workers: int) -> None:
    records = Numbers(broken=BROKEN)
    whole = loader(records, **size)
    expected, states = [], [whole.state_dict()]
    for item in islice(whole, 20):
        expected.append(item)
        states.append(json.loads(json.dumps(whole.state_dict())))
    assert expected[-1].epoch > 1
    # Every place with no workers, some with two: starting them takes time.
    for place in range(0, 17, 1 if workers == 0 else 5):
        again = loader(records, **size, num_workers=workers)
        again.load_state_dict(states[place])
        found = []
        for item in islice(again, 4):
            found.append(item)
            assert again.state_dict() == states[place + len(found)]
        again.close()
        assert found == expected[place : place + 4]


@pytest.mark.parametrize("size", SIZES, ids=["samples", "tokens"])
def test_epochs(size: dict[str, int]) -> None:
    epochs: dict[int, list[int]] = {}
    for item in taken(loader(**size), 60):
        rows = [row for row, _ in item.batch]
        assert item.samples == len(rows)
        assert item.tokens == sum(rows) + len(rows)
        found = epochs.setdefault(item.epoch, [])
        found += rows
        assert item.ends_epoch == (len(found) == COUNT)
        if "tokens_per_batch" in size:
            assert item.tokens <= 40 or len(rows) == 1
        else:
            assert len(rows) == (3 if item.ends_epoch else 4)
    full = [rows for rows in epochs.values() if len(rows) == COUNT]
    assert len(full) > 2
    assert all(sorted(rows) == list(range(COUNT)) for rows in full)
    assert full[0] != full[1]


def test_bins_are_filled() -> None:
    """A sample goes into the next batch only where it does not fit."""
    items = taken(loader(tokens_per_batch=40), 30)
    for item, following in pairwise(items):
        if not item.ends_epoch:
            assert item.tokens + following.batch[0][0] + 1 > 40


@pytest.mark.parametrize("size", SIZES, ids=["samples", "tokens"])
def test_processes_and_workers(size: dict[str, int]) -> None:
    seen: dict[int, list[int]] = {}
    values = {}
    for process in (0, 1, 2):
        items = taken(loader(**size, process=process, num_processes=3), 14)
        same = loader(**size, process=process, num_processes=3, num_workers=2)
        assert taken(same, 14) == items
        for item in items:
            seen.setdefault(item.epoch, []).extend(row for row, _ in item.batch)
            values.update({(item.epoch, row): value for row, value in item.batch})
    for rows in (seen[0], seen[1]):
        assert len(rows) == len(set(rows)) == COUNT - COUNT % 3
    # The chance of a sample is that of its row and epoch, whoever makes it.
    alone = {(item.epoch, row): value for item in taken(loader(), 12) for row, value in item.batch}
    shared = alone.keys() & values.keys()
    assert len(shared) > 30
    assert all(alone[key] == values[key] for key in shared)
    assert len(set(alone.values())) == len(alone)


def test_bad_rows_are_replaced(caplog: pytest.LogCaptureFixture) -> None:
    records = Numbers(broken=BROKEN)
    with caplog.at_level(logging.WARNING):
        batches = loader(records, num_workers=2)
        items = taken(batches, 6)
    rows = [row for item in items for row, _ in item.batch]
    assert len(rows) == COUNT
    assert not set(rows) & set(BROKEN)
    assert batches.bad_rows == batches.state_dict()["bad_rows"] >= 2
    said = [record.message for record in caplog.records]
    assert len(said) == batches.bad_rows
    for row in BROKEN:
        line = f"number {row}: BadRow: mask: is empty; another row takes its place"
        assert line in said
    again = loader(records)
    again.load_state_dict(batches.state_dict())
    assert again.bad_rows == batches.bad_rows
    with pytest.raises(RuntimeError, match="BadRow: mask: is empty; nor can 100 other rows be"):
        taken(loader(Numbers(broken=tuple(range(COUNT)))), 1)


def test_rows_that_fail_in_any_way_are_replaced(caplog: pytest.LogCaptureFixture) -> None:
    def fails(record: Record, rng: np.random.Generator) -> tuple[int, float]:
        if record.id == "3":
            raise KeyError("nothing there")
        if record.id == "5":
            raise OSError("disk")
        return sample(record, rng)

    rows = [row for item in taken(loader(sample=fails), 6) for row, _ in item.batch]
    assert not {3, 5} & set(rows)
    assert len(caplog.records) >= 2

    def exhausted(record: Record, rng: np.random.Generator) -> tuple[int, float]:
        raise MemoryError

    with pytest.raises(MemoryError):
        taken(loader(sample=exhausted), 1)


def test_state_of_another_run() -> None:
    state = loader().state_dict()
    others: dict[str, BatchLoader] = {
        "data": loader(Numbers(COUNT + 1)),
        "seed": loader(seed=1),
        "process": loader(process=1, num_processes=2),
        "samples_per_batch": loader(samples_per_batch=3),
        "group_by_length": loader(group_by_length=True),
    }
    for name, other in others.items():
        with pytest.raises(ValueError, match=f"state: {name}: expected .* as now, got "):
            other.load_state_dict(state)
    loader().load_state_dict(state)
    with pytest.raises(ValueError, match="state: tokens_per_batch: expected 40 as now, got 50"):
        loader(tokens_per_batch=40).load_state_dict(loader(tokens_per_batch=50).state_dict())


def test_number_of_batches() -> None:
    assert loader().batches_per_epoch() == 6
    assert loader(process=1, num_processes=2).batches_per_epoch() == 3
    packed = loader(tokens_per_batch=40)
    ended = next(k for k, item in enumerate(packed, start=1) if item.ends_epoch)
    assert packed.batches_per_epoch() == ended
    for budget in (200, 4000, 40_000):
        many = loader(
            Numbers(800), tokens_per_batch=budget, num_tokens=lambda made: 1 + made[0] % 50
        )
        ended = next(k for k, item in enumerate(many, start=1) if item.ends_epoch)
        assert abs(many.batches_per_epoch() - ended) <= max(0.1 * ended, 1)


def test_grouped_batches() -> None:
    def spread(**more: Any) -> float:
        batches = loader(Numbers(200), **more)
        return float(np.mean([np.ptp([row for row, _ in i.batch]) for i in taken(batches, 50)]))

    assert spread(group_by_length=True) < 0.2 * spread()


def test_torch_s_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    taken(loader(num_workers=1), 3)
    taken(loader(), 3)
    assert torch.equal(before, torch.get_rng_state())


def test_workers_leave_signals_to_the_training_process() -> None:
    def with_process(record: Record, rng: np.random.Generator) -> tuple[int, int]:
        return 1, os.getpid()

    batches = loader(sample=with_process, num_workers=1)
    items = iter(batches)
    worker = next(items).batch[0][1]
    assert worker != os.getpid()
    os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGINT)
    assert next(items).batch[0][1] == worker
    batches.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples_per_batch": None}, "give exactly one of them"),
        ({"samples_per_batch": 2, "tokens_per_batch": 2}, "give exactly one of them"),
        ({"samples_per_batch": 0}, "samples_per_batch: must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers: must be at least 0, got -1"),
        ({"seed": -1}, "seed: must be at least 0, got -1"),
        ({"tokens_per_batch": 9, "group_by_length": True}, "group_by_length: needs samples_per"),
    ],
)
def test_a_loader_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader(**values)
