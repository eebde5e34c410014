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
