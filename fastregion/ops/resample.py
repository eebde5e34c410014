"""Tables of one axis of a resize: which source pixels a result pixel reads, with which weights.

The published preprocessings differ in their rules, so the rules live here, once, and the kernels
follow tables. A table depends on sizes only; it is made once and kept. Nobody waits for its way to
a GPU; but it is not part of a CUDA graph, so a size must have been used before it is captured.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NEAREST_RULES = ("floor", "centre", "opencv")

# Weights of Pillow's 8-bit resize are integers with this many bits behind the point.
PRECISION_BITS = 22


class _Tables(NamedTuple):
    """Tables on a device; on a GPU, also the stream that copies them there, and when it has."""

    tensors: tuple[Tensor, ...]
    stream: torch.cuda.Stream | None
    copied: torch.cuda.Event | None


def _to_device(device: torch.device, *arrays: np.ndarray) -> _Tables:
    tables = [torch.from_numpy(array) for array in arrays]
    if device.type != "cuda":
        return _Tables(tuple(table.to(device) for table in tables), None, None)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "a mask was resized between sizes that are new, while a CUDA graph is captured; resize "
            "one of these sizes before, outside of the graph"
        )
    stream = torch.cuda.current_stream(device)
    tensors = tuple(table.pin_memory().to(device, non_blocking=True) for table in tables)
    return _Tables(tensors, stream, stream.record_event())


def _on_current_stream(tables: _Tables) -> tuple[Tensor, ...]:
    """The tables, for kernels of the current stream to read."""
    # What is captured runs after torch.cuda.graph has waited for all streams.
    if tables.copied is not None and not torch.cuda.is_current_stream_capturing():
        stream = torch.cuda.current_stream(tables.tensors[0].device)
        if stream != tables.stream:
            stream.wait_event(tables.copied)
            for tensor in tables.tensors:
                tensor.record_stream(stream)
    return tables.tensors


def nearest_table(source: int, sizes: tuple[int, ...], rule: str, device: torch.device) -> Tensor:
    """Source indices of the result pixels of each size, one size behind the other, int64.

    ``floor``: torch's, ``floor(i * source / size)`` with the quotient and the product rounded to
    float32, which is one more or less for a few in 1000 pixels of common photographs; exact where
    the sizes are equal or the result's is double. ``centre``: Pillow's, the pixel under the centre
    of the result pixel, with the steps added up in float64 as Pillow does. ``opencv``: OpenCV's,
    ``floor(i * source / size)`` in float64, with the step as the inverse of the inverse.
    """
    (table,) = _on_current_stream(_nearest_table(source, sizes, rule, device))
    return table


@lru_cache(maxsize=256)
def _nearest_table(source: int, sizes: tuple[int, ...], rule: str, device: torch.device) -> _Tables:
    indices = [_nearest_indices(source, size, rule) for size in sizes]
    return _to_device(device, np.concatenate(indices))


def _nearest_indices(source: int, size: int, rule: str) -> NDArray[np.int64]:
    if rule == "floor":
        if size in (source, 2 * source):
            return np.arange(size, dtype=np.int64) * source // size
        step = np.float32(source) / np.float32(size)
        indices: NDArray[np.float32] = np.arange(size, dtype=np.float32) * step
        return indices.astype(np.int64).clip(max=source - 1)
    if rule == "opencv":
        places = np.floor(np.arange(size) * (1.0 / (size / source)))
        below: NDArray[np.int64] = places.astype(np.int64)
        return below.clip(max=source - 1)
    steps = np.full(size, source / size)
    steps[0] *= 0.5
    return np.add.accumulate(steps).astype(np.int64)


def _bicubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5, in the order of operations of Pillow."""
    a, x = -0.5, np.abs(distance)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def bicubic_table(
    source: int, size: int, fixed_point: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pillow's bicubic with antialiasing along one axis.

    Returns:
        ``[size, 2]`` int32, first source pixel and number of them; ``[size, taps]`` weights, int32
        with ``PRECISION_BITS`` bits behind the point or float64; those past the number are 0, and
        taps is a multiple of 8.
    """
    window, weights = _on_current_stream(_bicubic_table(source, size, fixed_point, device))
    return window, weights


@lru_cache(maxsize=256)
def _bicubic_table(source: int, size: int, fixed_point: bool, device: torch.device) -> _Tables:
    scale = source / size
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    centre = (np.arange(size) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), source) - first
    tap = np.arange(-(-count.max() // 8) * 8)  # whole vectors for the kernels
    place = (tap + first[:, None]) - centre[:, None] + 0.5
    weights = np.where(tap < count[:, None], _bicubic(place * (1.0 / stretch)), 0.0)
    total = np.add.accumulate(weights, axis=1)[:, -1:]  # added one by one, as Pillow does
    weights = np.divide(weights, total, out=weights, where=total != 0)
    if fixed_point:
        scaled = weights * (1 << PRECISION_BITS)
        weights = np.where(scaled < 0, scaled - 0.5, scaled + 0.5).astype(np.int32)
    window = np.stack((first, count), axis=1).astype(np.int32)
    return _to_device(device, window, weights)
