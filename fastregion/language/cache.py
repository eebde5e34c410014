"""Key-value cache of a batch that shrinks while it is decoded.

Every layer has one pair of buffers in the layout of ``ops.attention_cache``: a row per sequence,
each filled from its first column, whatever the lengths. Sequences that end leave the batch without
moving anything: ``rows`` says where those that remain lie. A cache may stand on another one, its
prefix, whose sequences are shared: each of its own continues one of them (``prefix_of``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastregion.ops.attention_cache import KV_BLOCK, empty_kv
from fastregion.ops.decode_attention import SharedPrefix

__all__ = ["KVCache"]

_GROWTH = 256  # columns added when the buffers are full: rare enough that copying costs nothing


class KVCache:
    """Keys and values of ``B`` sequences for all layers.

    Args:
        num_layers, num_kv_heads, head_dim, dtype: those of the decoder; a head width that is not a
            multiple of 8 is padded to one by whoever writes.
        lengths: tokens of each sequence that will be written next, on the host.
        positions: int64 ``[B]``, position of each sequence's next token after these.
        prefix: a filled cache that the sequences continue, which must not change any more.
        prefix_of: for each sequence the index of its prefix in that cache, or -1 for none.

    Attributes:
        layers: keys and values of each layer, see ``ops.attention_cache``.
        lengths: int32 ``[B]``, tokens of each sequence, the prefix not counted.
        rows: int32 ``[B]``, where each lies in the buffers.
        positions: int64 ``[B]``, position of each sequence's next token.
        highest_position: the largest of them, on the host.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        lengths: Sequence[int],
        positions: Tensor,
        dtype: torch.dtype,
        prefix: KVCache | None = None,
        prefix_of: Sequence[int] = (),
    ) -> None:
        device = positions.device
        self.positions = positions
        self.highest_position = int(positions.max())
        self.lengths = torch.tensor(lengths, dtype=torch.int32, device=device)
        self.rows = torch.arange(len(lengths), dtype=torch.int32, device=device)
        self._longest = max(lengths)  # an upper bound once sequences have left
        capacity = self._longest + _GROWTH
        self.layers = [
            empty_kv(len(lengths), num_kv_heads, capacity, head_dim, dtype=dtype, device=device)
            for _ in range(num_layers)
        ]
        self._prefix = prefix
        self._prefix_of = torch.tensor(prefix_of, dtype=torch.int32, device=device)

    @property
    def batch_size(self) -> int:
        """Sequences still in the batch."""
        return self.rows.shape[0]

    @property
    def capacity(self) -> int:
        """Columns allocated."""
        return self.layers[0][0].shape[2] * KV_BLOCK

    def prefix(self, layer: int) -> SharedPrefix | None:
        """What ``ops.decode_attention`` needs to know of the prefix in one layer."""
        if self._prefix is None:
            return None
        keys, values = self._prefix.layers[layer]
        return SharedPrefix(keys, values, self._prefix.lengths, self._prefix_of)

    def advance(self) -> None:
        """Make room for one more token of every sequence, and count it as written."""
        self._longest += 1
        if self._longest > self.capacity:
            self._grow()
        self.lengths += 1
        self.positions += 1
        self.highest_position += 1

    def _grow(self) -> None:
        for index, (keys, values) in enumerate(self.layers):  # one at a time: peak memory stays low
            rows, heads, blocks, half_width = keys.shape[:4]
            grown = empty_kv(
                rows,
                heads,
                blocks * KV_BLOCK + _GROWTH,
                2 * half_width,
                dtype=keys.dtype,
                device=keys.device,
            )
            for old, new in zip((keys, values), grown, strict=True):
                new[:, :, :blocks] = old
            self.layers[index] = grown

    @torch.inference_mode()  # decoding steps are, and only there may their tensors be written
    def remove(self, rows: Sequence[int]) -> list[int]:
        """Drop sequences; the buffers stay as they are.

        Returns:
            For each remaining sequence, the place in the batch it had before.
        """
        dropped = set(rows)
        kept = [row for row in range(self.batch_size) if row not in dropped]
        self._pick(torch.tensor(kept, dtype=torch.int64, device=self.rows.device))
        return kept

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Make row ``i`` of the new batch row ``rows[i]`` of the old one; repeats are allowed.

        What is wanted once stays where it is; further copies go where nothing is wanted any more.
        """
        places = self.rows.tolist()
        wanted = [places[row] for row in rows]
        height = self.layers[0][0].shape[0]
        self._pick(torch.tensor(rows, dtype=torch.int64, device=self.rows.device))
        if len(rows) > height:  # more than there is room for
            self.layers = [(keys[wanted], values[wanted]) for keys, values in self.layers]
            wanted = list(range(len(rows)))
        else:
            free = sorted(set(range(height)).difference(wanted), reverse=True)
            copies = []  # (from, to)
            taken = set()
            for index, place in enumerate(wanted):
                if place in taken:
                    wanted[index] = free.pop()
                    copies.append((place, wanted[index]))
                taken.add(place)
            if copies:
                sources, targets = (list(side) for side in zip(*copies, strict=True))
                used = slice(-(-self._longest // KV_BLOCK))
                for layer in self.layers:
                    for buffer in layer:
                        buffer[targets, :, used] = buffer[sources, :, used]
        self.rows = torch.tensor(wanted, dtype=torch.int32, device=self.rows.device)

    def _pick(self, index: Tensor) -> None:
        self.rows, self.lengths = self.rows[index], self.lengths[index]
        self.positions = self.positions[index]
        if self._prefix is not None:
            self._prefix_of = self._prefix_of[index]
