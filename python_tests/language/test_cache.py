from __future__ import annotations

import torch

from fastregion.language.cache import KVCache


def filled(lengths: list[int]) -> KVCache:
    """A cache whose keys and values name their sequence."""
    cache = KVCache(
        num_layers=2,
        num_kv_heads=1,
        head_dim=4,
        lengths=lengths,
        positions=torch.tensor(lengths),
        dtype=torch.float32,
    )
    for layer in cache.layers:
        for row, length in enumerate(lengths):
            layer[row, :, :, cache.length - length : cache.length] = row + 1
    return cache


def test_sequences_end_together_and_padding_is_masked() -> None:
    cache = filled([2, 5, 4])
    assert cache.length == 5
    assert cache.start == 0
    assert cache.mask is not None
    hidden = cache.mask[:, 0, 0, :5].isinf()
    assert hidden.sum(-1).tolist() == [3, 0, 1]
    assert filled([3, 3]).mask is None


def test_removing_moves_the_last_sequences_into_the_gaps() -> None:
    cache = filled([2, 5, 4, 3])
    buffer = cache.layers[0]
    assert cache.remove([3, 0]) == [2, 1]
    assert cache.batch_size == 2
    assert cache.positions.tolist() == [4, 5]
    assert cache.layers[1][:, 0, 0, 4, 0].tolist() == [3, 2]
    assert cache.mask is not None
    assert cache.mask[:, 0, 0, :5].isinf().sum(-1).tolist() == [1, 0]
    assert cache.layers[0].data_ptr() == buffer.data_ptr()  # in place
    assert cache.remove([1]) == [0]
    assert cache.start == 1  # the column that only the longest sequence used is no longer read
    assert cache.mask is None
    assert cache.remove([0]) == []


def test_growing_keeps_what_is_there_and_the_mask() -> None:
    cache = filled([2, 3])
    before = [layer[..., : cache.length, :].clone() for layer in cache.layers]
    room = cache.capacity - cache.length
    cache.reserve(room)
    assert cache.capacity == cache.length + room  # it fitted
    cache.reserve(room + 1)
    assert cache.capacity >= cache.length + room + 1
    for old, layer in zip(before, cache.layers, strict=True):
        assert torch.equal(layer[..., : cache.length, :], old)
        assert not layer[..., cache.length :, :].any()
    assert cache.mask is not None
    assert cache.mask.shape[-1] == cache.capacity
