"""Key-value cache of a batch that shrinks while it is decoded.

Every layer has one pair of buffers in the layout of ``ops.attention_cache``: a row per sequence,
each filled from its first column, whatever the lengths. Sequences that end leave the batch without
moving anything: ``rows`` says where those that remain lie. A cache may stand on another one, its
prefix, whose sequences are shared: each of its own continues one of them (``prefix_of``).
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from fastregion.ops.attention_cache import KV_BLOCK, empty_kv, grown_kv
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
        room: columns to allocate for what follows these tokens.
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
        room: int = _GROWTH,
        prefix: KVCache | None = None,
        prefix_of: Sequence[int] = (),
    ) -> None:
        device = positions.device
        self.positions = positions
        self.highest_position = int(positions.max())
        self.lengths = torch.tensor(lengths, dtype=torch.int32, device=device)
        self.rows = torch.arange(len(lengths), dtype=torch.int32, device=device)
        self._longest = max(lengths)  # an upper bound once sequences have left
        capacity = self._longest + room
        self.layers = [
            empty_kv(len(lengths), num_kv_heads, capacity, head_dim, dtype=dtype, device=device)
            for _ in range(num_layers)
        ]
        self._lent = False  # another cache keeps its tokens in these buffers too
        self._newest_fork: weakref.ref[KVCache] | None = None
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

    @property
    def stands_on_prefix(self) -> bool:
        """Whether its sequences continue those of another cache."""
        return self._prefix is not None

    @property
    def branch_columns(self) -> int:
        """Columns of each sequence that ``branch`` copies."""
        return 0 if self._prefix is None else self._longest

    def fork(self) -> KVCache:
        """A cache that goes on from here in the same buffers, behind the tokens that both hold.

        The free columns are those of one fork at a time: nothing is copied, unless an earlier fork
        still writes there. This cache itself must not go on any more.
        """
        twin = copy.copy(self)
        earlier = None if self._newest_fork is None else self._newest_fork()
        if earlier is not None and earlier._lent:
            used = slice(-(-self._longest // KV_BLOCK))
            twin.layers = [(k[:, :, used].clone(), v[:, :, used].clone()) for k, v in self.layers]
            twin._lent = False
        else:
            twin.layers = list(self.layers)
            twin._lent = True
            self._newest_fork = weakref.ref(twin)
        twin._newest_fork = None
        twin.lengths, twin.positions = self.lengths.clone(), self.positions.clone()
        return twin

    @torch.inference_mode()
    def branch(self, rows: Sequence[int]) -> KVCache:
        """A cache whose sequence ``i`` continues ``rows[i]`` of this one; repeats are allowed.

        The tokens are shared, not copied, and the two are independent as long as this one does not
        change. A cache that stands on a prefix itself has its own columns copied.
        """
        if self._prefix is not None:
            copied = self.fork()
            copied.select(rows)
            return copied
        keys = self.layers[0][0]
        return KVCache(
            num_layers=len(self.layers),
            num_kv_heads=keys.shape[1],
            head_dim=2 * keys.shape[3],
            lengths=[0] * len(rows),
            positions=self.positions[list(rows)],
            dtype=keys.dtype,
            room=0,
            prefix=self,
            prefix_of=rows,
        )

    def advance(self) -> None:
        """Make room for one more token of every sequence, and count it as written."""
        self._longest += 1
        if self._longest > self.capacity:
            self._grow(_GROWTH)
        self.lengths += 1
        self.positions += 1
        self.highest_position += 1

    @torch.inference_mode()
    def extend(self, counts: Sequence[int]) -> None:
        """The same for ``counts[i]`` more tokens of sequence ``i``, of which no more will come."""
        self._longest += max(counts)
        if self._longest > self.capacity:
            self._grow(self._longest - self.capacity)
        self.lengths = self.lengths + self.lengths.new_tensor(counts)
        self.positions = self.positions + self.positions.new_tensor(counts)
        self.highest_position += max(counts)

    def _grow(self, columns: int) -> None:
        capacity = self.capacity + columns
        for index, (keys, values) in enumerate(self.layers):  # one at a time: peak memory stays low
            self.layers[index] = grown_kv(keys, values, capacity)
        self._lent = False

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
        used = slice(-(-self._longest // KV_BLOCK))
        self._pick(torch.tensor(rows, dtype=torch.int64, device=self.rows.device))
        if self._lent or len(rows) > height:  # more than there is room for
            self.layers = [(k[:, :, used][wanted], v[:, :, used][wanted]) for k, v in self.layers]
            wanted = list(range(len(rows)))
            self._lent = False
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
                for layer in self.layers:
                    for buffer in layer:
                        buffer[targets, :, used] = buffer[sources, :, used]
        self.rows = torch.tensor(wanted, dtype=torch.int32, device=self.rows.device)

    def _pick(self, index: Tensor) -> None:
        self.rows, self.lengths = self.rows[index], self.lengths[index]
        self.positions = self.positions[index]
        if self._prefix is not None:
            self._prefix_of = self._prefix_of[index]
