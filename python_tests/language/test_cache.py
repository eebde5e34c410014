from __future__ import annotations

import torch
from torch import Tensor

from fastregion.language.cache import KVCache
from fastregion.ops import append_kv_, unpack_kv


def filled(
    lengths: list[int], prefix: KVCache | None = None, prefix_of: tuple[int, ...] = ()
) -> KVCache:
    """A cache whose keys and values name their sequence."""
    cache = KVCache(
        num_layers=2,
        num_kv_heads=1,
        head_dim=8,
        lengths=lengths,
        positions=torch.tensor(lengths),
        dtype=torch.float32,
        prefix=prefix,
        prefix_of=prefix_of,
    )
    for keys, values in cache.layers:
        for row, length in enumerate(lengths):
            new = torch.full((length, 1, 8), row + 1.0)
            rows = torch.full((length,), row)
            append_kv_(keys, values, new, -new, rows, torch.arange(length))
    return cache


def owners(cache: KVCache, layer: int) -> list[list[float]]:
    """Whose columns each sequence sees, by the keys; values are their negatives."""
    keys, values = unpack_kv(*cache.layers[layer])
    seen = []
    for row, length in zip(cache.rows.tolist(), cache.lengths.tolist(), strict=True):
        own: Tensor = keys[row, 0, :length, 0]
        assert torch.equal(values[row, 0, :length, 0], -own)
        seen.append(own.tolist())
    return seen


def test_every_sequence_fills_its_row_from_the_first_column() -> None:
    cache = filled([2, 5, 4])
    assert cache.batch_size == 3
    assert cache.lengths.tolist() == [2, 5, 4]
    assert owners(cache, 0) == [[1, 1], [2] * 5, [3] * 4]
    assert cache.prefix(0) is None


def test_removing_moves_nothing() -> None:
    cache = filled([2, 5, 4, 3])
    buffer = cache.layers[0][0]
    assert cache.remove([3, 0]) == [1, 2]
    assert cache.batch_size == 2
    assert cache.positions.tolist() == [5, 4]
    assert owners(cache, 1) == [[2] * 5, [3] * 4]
    assert cache.layers[0][0].data_ptr() == buffer.data_ptr()
    assert cache.remove([1]) == [0]
    assert owners(cache, 0) == [[2] * 5]
    assert cache.remove([0]) == []


def test_growing_keeps_what_is_there() -> None:
    cache = filled([2, 3])
    capacity = cache.capacity
    for _ in range(capacity - 3):
        cache.advance()
    assert cache.capacity == capacity  # it fitted
    cache.advance()
    assert cache.capacity > capacity
    assert cache.lengths.tolist() == [capacity, capacity + 1]
    assert cache.positions.tolist() == cache.lengths.tolist()
    assert cache.highest_position == capacity + 1
    keys, values = unpack_kv(*cache.layers[1])
    assert keys[1, 0, :3, 0].tolist() == [2, 2, 2]
    assert values[1, 0, :3, 0].tolist() == [-2, -2, -2]


def test_prefixes_stay_with_their_sequences() -> None:
    prefix = filled([6, 7])
    cache = filled([1, 1, 1], prefix, (1, 0, 1))
    assert cache.remove([0]) == [1, 2]
    shared = cache.prefix(1)
    assert shared is not None
    assert shared.of.tolist() == [0, 1]
    assert shared.lengths.tolist() == [6, 7]
    assert shared.keys is prefix.layers[1][0]


def test_selecting_copies_only_repeats() -> None:
    cache = filled([2, 5, 4])
    buffer = cache.layers[0][0]
    cache.select([1, 1, 0])
    assert owners(cache, 0) == [[2] * 5, [2] * 5, [1, 1]]
    assert cache.positions.tolist() == [5, 5, 2]
    assert len(set(cache.rows.tolist())) == 3  # each writes on in a row of its own
    assert cache.layers[0][0].data_ptr() == buffer.data_ptr()
    cache.remove([0])
    cache.select([1, 0, 1, 1])  # more than there are rows
    assert owners(cache, 1) == [[1, 1], [2] * 5, [1, 1], [1, 1]]
    assert len(set(cache.rows.tolist())) == 4


def test_a_fork_goes_its_own_way_in_the_same_buffers() -> None:
    cache = filled([2, 5])
    fork = cache.fork()
    fork.advance()
    fork.remove([0])
    assert fork.lengths.tolist() == [6]
    assert cache.lengths.tolist() == [2, 5]
    assert cache.positions.tolist() == [2, 5]
    assert fork.layers[0][0] is cache.layers[0][0]
    fork.select([0])  # where it writes now is its own
    assert fork.layers[0][0] is not cache.layers[0][0]
    assert owners(cache, 0) == [[1, 1], [2] * 5]


def test_forks_that_go_on_at_the_same_time_do_not_meet() -> None:
    cache = filled([2, 5])
    first, second = cache.fork(), cache.fork()
    for fork, value in ((first, 7.0), (second, 8.0)):
        fork.advance()
        for keys, values in fork.layers:
            new = torch.full((2, 1, 8), value)
            append_kv_(keys, values, new, -new, fork.rows, fork.lengths - 1)
    assert owners(first, 1) == [[1, 1, 7], [2] * 5 + [7]]
    assert owners(second, 1) == [[1, 1, 8], [2] * 5 + [8]]
    del first, fork
    assert cache.fork().layers[0][0] is cache.layers[0][0]  # nobody else writes there any more


def test_a_branch_shares_what_it_continues() -> None:
    cache = filled([2, 5, 4])
    branch = cache.branch([2, 0, 2])
    assert branch.lengths.tolist() == [0, 0, 0]
    assert branch.positions.tolist() == [4, 2, 4]
    assert branch.capacity == 0  # nothing is allocated before it is known how much
    shared = branch.prefix(1)
    assert shared is not None
    assert shared.of.tolist() == [2, 0, 2]
    assert shared.keys is cache.layers[1][0]
    branch.extend([3, 1, 20])
    assert branch.capacity == 32
    assert branch.lengths.tolist() == [3, 1, 20]
    assert branch.positions.tolist() == [7, 3, 24]
    assert branch.highest_position >= 24


def test_a_branch_of_a_cache_on_a_prefix_has_its_columns_copied() -> None:
    cache = filled([2, 5, 4], filled([6, 7]), (1, 0, 1))
    assert cache.branch_columns == 5
    branch = cache.branch([1, 1])
    assert owners(branch, 0) == [[2] * 5, [2] * 5]
    assert branch.layers[0][0] is not cache.layers[0][0]
    shared = branch.prefix(0)
    assert shared is not None
    assert shared.of.tolist() == [0, 0]
    branch.extend([300, 2])
    assert branch.lengths.tolist() == [305, 7]
    assert branch.capacity >= 305
    assert owners(cache, 1) == [[1, 1], [2] * 5, [3] * 4]
