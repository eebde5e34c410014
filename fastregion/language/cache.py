"""Key-value cache of a batch that shrinks while it is decoded.

Sequences are right-aligned: all end in the same column, so that one step writes one column and
reads one window, whatever the lengths. Per layer:

    buffer [B, 2, kv_heads, capacity, head_dim]     [:, 0] keys (rotated), [:, 1] values

    column      0 .. pad-1      pad .. length-1      length .. capacity-1
                zeros, masked   the sequence         free

Keys and values lie in one buffer because they are written together: one copy per layer and step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["KVCache"]

_BLOCK = 256  # columns added when the buffer is full: rare enough that copying costs nothing


class KVCache:
    """Keys and values of ``B`` sequences for all layers; see the module for the layout.

    Attributes:
        layers: one buffer ``[B, 2, kv_heads, capacity, head_dim]`` per layer.
        length: columns in use; every sequence ends here.
        start: first column that any sequence uses.
        mask: additive ``[B, 1, 1, capacity]`` (0 or -inf), or None when no sequence is padded.
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
    ) -> None:
        self.length = max(lengths)
        self.positions = positions
        self.highest_position = int(positions.max())
        self._pads = [self.length - length for length in lengths]
        shape = (len(lengths), 2, num_kv_heads, self.length + _BLOCK, head_dim)
        # Zeros, not empty: padding is masked, but 0 * NaN would still be NaN in the weighted sum.
        self.layers = [
            torch.zeros(shape, dtype=dtype, device=positions.device) for _ in range(num_layers)
        ]
        self._refresh()

    @property
    def batch_size(self) -> int:
        """Sequences still in the batch."""
        return len(self._pads)

    @property
    def capacity(self) -> int:
        """Columns allocated."""
        return self.layers[0].shape[3]

    def reserve(self, columns: int) -> None:
        """Make room for this many columns behind ``length``."""
        if self.length + columns <= self.capacity:
            return
        capacity = self.length + max(columns, _BLOCK)
        for index, old in enumerate(self.layers):  # one layer at a time: peak memory stays low
            new = old.new_zeros(*old.shape[:3], capacity, old.shape[4])
            new[..., : self.length, :] = old[..., : self.length, :]
            self.layers[index] = new
        self._refresh()

    def advance(self) -> None:
        """Take the column that a decoding step wrote at ``length`` into use."""
        self.length += 1
        self.positions += 1
        self.highest_position += 1

    @torch.inference_mode()  # decoding steps are, and only there may their tensors be written
    def remove(self, rows: Sequence[int]) -> list[int]:
        """Drop sequences in place: the last ones move into the gaps, and nothing is reallocated.

        Returns:
            For each remaining row, the row it was before.
        """
        order = list(range(self.batch_size))
        for row in sorted(rows, reverse=True):  # then the last row is never one still to be dropped
            last = len(order) - 1
            if row != last:
                order[row] = order[last]
                self._pads[row] = self._pads[last]
                self.positions[row] = self.positions[last]
                for layer in self.layers:
                    layer[row, :, :, : self.length] = layer[last, :, :, : self.length]
            order.pop()
            self._pads.pop()
        if order:
            self.positions = self.positions[: len(order)]
            self.layers = [layer[: len(order)] for layer in self.layers]
            self._refresh()
        return order

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Make row ``i`` of the new batch row ``rows[i]`` of the old one; repeats are allowed."""
        count = len(rows)
        moved = [new for new, old in enumerate(rows) if new != old]
        if count > self.batch_size:
            index = torch.tensor(rows, device=self.positions.device)
            self.layers = [layer.index_select(0, index) for layer in self.layers]
            self.positions = self.positions.index_select(0, index)
        elif moved:  # most beams stay where they are: only the others are copied
            to = torch.tensor(moved, device=self.positions.device)
            source = torch.tensor([rows[new] for new in moved], device=to.device)
            for layer in self.layers:
                used = layer[:, :, :, : self.length]
                used[to] = used[source]
            self.positions[to] = self.positions[source]
        self.layers = [layer[:count] for layer in self.layers]
        self.positions = self.positions[:count]
        self._pads = [self._pads[row] for row in rows]
        self._refresh()

    def _refresh(self) -> None:
        """Recompute window and mask after the rows or the capacity changed."""
        self.start = min(self._pads)
        self.mask: Tensor | None = None
        if self.start != max(self._pads):
            pads = torch.tensor(self._pads, device=self.positions.device)[:, None, None, None]
            columns = torch.arange(self.capacity, device=pads.device)
            self.mask = torch.zeros(
                len(self._pads), 1, 1, self.capacity, dtype=self.layers[0].dtype, device=pads.device
            ).masked_fill_(columns < pads, float("-inf"))
