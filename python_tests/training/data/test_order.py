"""The order of rows: complete, without overlap, the same every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastregion.training.data.order import EpochOrder, sample_rng, substitute


def order(count: int = 20, **more: Any) -> EpochOrder:
    return EpochOrder(**{"repeats": np.ones(count), "seed": 0, **more})


@pytest.mark.parametrize("num_processes", [1, 2, 3, 7])
def test_processes_share_no_row(num_processes: int) -> None:
    parts = [order(20, process=p, num_processes=num_processes) for p in range(num_processes)]
    whole = order(20)
    left_out = set()
    for epoch in range(5):
        rows = [part.rows(epoch)[:, 0].tolist() for part in parts]
        assert {len(found) for found in rows} == {20 // num_processes} == {parts[0].per_epoch}
        together = [row for found in rows for row in found]
        assert len(set(together)) == len(together)
        # Dealt in turn from the order of a single process.
        dealt = [row for turn in zip(*rows, strict=True) for row in turn]
        assert dealt == whole.rows(epoch)[: len(dealt), 0].tolist()
        left_out |= set(range(20)) - set(together)
    assert len(left_out) > 20 % num_processes or 20 % num_processes == 0


def test_order_depends_on_seed_and_epoch() -> None:
    first = order().rows(0)
    assert np.array_equal(first, order().rows(0))
    assert sorted(first[:, 0]) == list(range(20))
    for other in (order().rows(1), order(seed=1).rows(0)):
        assert not np.array_equal(first, other)
        assert sorted(other[:, 0]) == list(range(20))


def test_repeats() -> None:
    repeats = np.array([2.0] * 4 + [0.25] * 8 + [1.5] * 3)
    mixed = order(repeats=repeats)
    assert mixed.per_epoch == 8 + 2 + 3 + 2
    seen = np.zeros(15)
    for epoch in range(40):
        rows = mixed.rows(epoch)
        assert len(rows) == mixed.per_epoch
        assert len({tuple(row) for row in rows.tolist()}) == len(rows)  # copies are told apart
        seen += np.bincount(rows[:, 0], minlength=15)
    assert (seen[:4] == 80).all()
    assert seen[4:12].sum() == 80
    assert (seen[4:12] > 0).all()  # other ones each epoch
    assert set(rows[rows[:, 0] < 4][:, 1].tolist()) == {0, 1}
    assert order(repeats=np.array([0.25])).per_epoch == 1


def test_rows_of_similar_length_come_together() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 1000, 800)
    grouped = order(800, lengths=lengths, batch_size=4)
    rows = grouped.rows(0)[:, 0]
    assert sorted(rows) == list(range(800))
    assert lengths[rows[0]] == lengths.max()
    spread = lengths[rows].reshape(-1, 4)
    plain = lengths[order(800).rows(0)[:, 0]].reshape(-1, 4)
    assert np.ptp(spread, axis=1).mean() < 0.1 * np.ptp(plain, axis=1).mean()
    assert not np.array_equal(rows, grouped.rows(1)[:, 0])
    # Within a batch of all processes, each gets rows of the same length.
    halves = [order(800, lengths=lengths, batch_size=8, process=p, num_processes=2) for p in (0, 1)]
    a, b = (lengths[half.rows(0)[:, 0]] for half in halves)
    assert np.abs(a - b)[1:].mean() < 30


def test_generators_of_samples_differ() -> None:
    draws = {
        (e, r, c): sample_rng(0, e, r, c).integers(1 << 60)
        for e in range(2)
        for r in range(3)
        for c in range(2)
    }
    assert len(set(draws.values())) == len(draws)
    assert sample_rng(1, 0, 0, 0).integers(1 << 60) != draws[0, 0, 0]
    assert sample_rng(0, 1, 2, 1).integers(1 << 60) == draws[1, 2, 1]
    found = {substitute(0, 0, 5, attempt, 1000) for attempt in range(20)}
    assert len(found) > 15


def test_what_cannot_be_dealt() -> None:
    with pytest.raises(ValueError, match=r"an epoch has fewer rows than there are processes \(4\)"):
        order(3, num_processes=4)
    with pytest.raises(ValueError, match="process: expected one of 0 to 1, got 2"):
        order(process=2, num_processes=2)
