"""The region functions in plain NumPy: the definition that the native ones are held to.

Used when the native module is missing. Same names, arguments, results and errors as
``fastregion._C.regions``; see :class:`fastregion.regions._backend.RegionsBackend` for what each
function does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
Counts = NDArray[np.int64]

_WORD_BITS = 64
_MAX_DIGITS = 8
_MAX_COUNT = 1 << (5 * _MAX_DIGITS)
_FINE = 5  # steps of the polygon grid per pixel


def pack(mask: NDArray[np.uint8]) -> Bits:
    """Pack the rows of a mask."""
    height, width = mask.shape
    words = -(-width // _WORD_BITS)
    row_bytes = np.packbits(mask != 0, axis=1, bitorder="little")
    padded = np.zeros((height, words * 8), np.uint8)
    padded[:, : row_bytes.shape[1]] = row_bytes
    return padded.view("<u8").astype(np.uint64, copy=False)


def unpack(bits: Bits, width: int) -> NDArray[np.bool_]:
    """Unpack rows into a boolean mask."""
    row_bytes = np.ascontiguousarray(bits, "<u8").view(np.uint8)
    return np.unpackbits(row_bytes, axis=1, count=width, bitorder="little").astype(bool)


def extent(bits: Bits, width: int) -> tuple[int, tuple[int, int, int, int]]:
    """Return the area and the half-open box around the pixels."""
    mask = unpack(bits, width)
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        return 0, (0, 0, 0, 0)
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return int(np.count_nonzero(mask)), box


def coordinate_sums(bits: Bits, width: int) -> tuple[int, int]:
    """Return the sums of the column and of the row indices of the pixels."""
    rows, columns = np.nonzero(unpack(bits, width))
    return int(columns.sum()), int(rows.sum())


def bits_to_counts(bits: Bits, width: int) -> Counts:
    """Return the run lengths of a mask, column by column."""
    pixels = unpack(bits, width).ravel(order="F")
    before = np.concatenate(([False], pixels[:-1])) if pixels.size else pixels
    ends = np.flatnonzero(pixels != before)
    return np.diff(np.concatenate(([0], ends, [pixels.size]))).astype(np.int64)


def counts_to_bits(counts: Counts, height: int, width: int) -> Bits:
    """Paint run lengths into a mask."""
    _check_sum(counts, height, width)
    values = np.arange(counts.size) % 2 == 1
    pixels = np.repeat(values, counts)
    return pack(pixels.reshape((height, width), order="F").view(np.uint8))


def counts_to_string(counts: Counts) -> bytes:
    """Compress run lengths."""
    values = counts.tolist()
    text = bytearray()
    for i, count in enumerate(values):
        value = count - values[i - 2] if i > 2 else count
        more = True
        while more:
            digit = value & 0x1F
            value >>= 5
            more = value != (-1 if digit & 0x10 else 0)
            text.append(digit + (0x20 if more else 0) + 48)
    return bytes(text)


def string_to_counts(text: bytes) -> Counts:
    """Read compressed run lengths."""
    counts: list[int] = []
    value = digits = 0
    for at, character in enumerate(text):
        code = character - 48
        if not 0 <= code < 0x40:
            raise ValueError(
                "rle: counts must be made of the characters 0 to o, "
                f"got code {character} at position {at}"
            )
        if digits >= _MAX_DIGITS:
            raise ValueError(
                f"rle: counts must fit a mask, got a number of more than {_MAX_DIGITS} digits "
                f"at position {at}"
            )
        value |= (code & 0x1F) << (5 * digits)
        digits += 1
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << (5 * digits)
        if len(counts) > 2:
            value += counts[-2]
        if not 0 <= value < _MAX_COUNT:
            raise ValueError(
                f"rle: counts must be at least 0 and fit a mask, got {value} "
                f"before position {at + 1}"
            )
        counts.append(value)
        value = digits = 0
    if digits:
        raise ValueError(
            "rle: counts must end with a whole number, "
            f"got a string cut short after {len(text)} characters"
        )
    return np.array(counts, np.int64)


def bits_to_string(bits: Bits, width: int) -> bytes:
    """Compress a mask."""
    return counts_to_string(bits_to_counts(bits, width))


def string_to_bits(text: bytes, height: int, width: int) -> Bits:
    """Paint a compressed string into a mask."""
    return counts_to_bits(string_to_counts(text), height, width)


def strings_to_masks(
    texts: list[bytes], height: int, width: int, num_threads: int
) -> NDArray[np.bool_]:
    """Paint compressed strings into masks ``[N, H, W]``."""
    del num_threads  # it only makes it faster
    masks = np.zeros((len(texts), height, width), bool)
    for mask, text in zip(masks, texts, strict=True):
        mask[:] = unpack(string_to_bits(text, height, width), width)
    return masks


def counts_extent(counts: Counts, height: int, width: int) -> tuple[int, tuple[int, int, int, int]]:
    """Return the area and the (x, y, width, height) box of run lengths."""
    _check_sum(counts, height, width)
    ends = np.cumsum(counts)
    inside = (np.arange(counts.size) % 2 == 1) & (counts > 0)
    if not inside.any():
        return 0, (0, 0, 0, 0)
    first, last = (ends - counts)[inside], ends[inside] - 1
    one_column = first // height == last // height  # else the run has a bottom and a top pixel
    x0, x1 = int(first[0] // height), int(last[-1] // height) + 1
    y0 = int(np.where(one_column, first % height, 0).min())
    y1 = int(np.where(one_column, last % height, height - 1).max()) + 1
    return int(counts[inside].sum()), (x0, y0, x1 - x0, y1 - y0)


def string_extent(text: bytes, height: int, width: int) -> tuple[int, tuple[int, int, int, int]]:
    """Return the area and the (x, y, width, height) box of a compressed string."""
    return counts_extent(string_to_counts(text), height, width)


def polygon_to_bits(points: NDArray[np.float64], height: int, width: int) -> Bits:
    """Fill a closed polygon with the rounding of COCO's rasteriser.

    The outline is rounded to a grid five times finer than the pixels and walked step by step along
    the longer axis of each edge. Where it steps over the middle of a pixel column, the column is
    toggled from there on; a pixel is inside where the toggles above it are odd in number.
    """
    # astype truncates toward zero, negative values included: that is the rounding to reproduce.
    fine = (_FINE * points + 0.5).astype(np.int64)
    toggles = np.zeros(height * width + 1, np.int64)
    for start, end in zip(fine, np.roll(fine, -1, axis=0), strict=True):
        dx, dy = np.abs(end - start).tolist()
        along, across = (0, 1) if dx >= dy else (1, 0)
        if start[along] > end[along]:
            start, end = end, start
        length = max(dx, dy)
        steps = np.arange(length + 1)
        slope = (end[across] - start[across]) / max(length, 1)
        walk = np.empty((length + 1, 2), np.int64)
        walk[:, along] = start[along] + steps
        walk[:, across] = (start[across] + slope * steps + 0.5).astype(np.int64)

        lower = np.minimum(walk[1:], walk[:-1])
        crosses = walk[1:, 0] != walk[:-1, 0]
        column = (lower[:, 0] + 0.5) / _FINE - 0.5
        crosses &= (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
        row = np.ceil(np.clip((lower[:, 1] + 0.5) / _FINE - 0.5, 0, height))
        np.add.at(toggles, (column * height + row)[crosses].astype(np.int64), 1)
    pixels = np.cumsum(toggles[:-1]) % 2 == 1
    return pack(pixels.reshape((height, width), order="F").view(np.uint8))


def resize(bits: Bits, width: int, new_height: int, new_width: int, num_threads: int) -> Bits:
    """Resize a mask to the nearest pixel."""
    del num_threads
    rows = np.arange(new_height) * len(bits) // new_height
    columns = np.arange(new_width) * width // new_width
    return pack(unpack(bits, width)[rows][:, columns].view(np.uint8))


def boundary(bits: Bits, width: int, radius: int, num_threads: int) -> Bits:
    """Return the pixels whose square of ``2 * radius + 1`` pixels is not all inside the mask."""
    del num_threads
    radius = min(radius, max(len(bits), width))  # nothing is left of any mask beyond that
    padded = np.pad(unpack(bits, width), radius)
    steps = range(2 * radius + 1)
    in_row = np.logical_and.reduce([padded[:, step : step + width] for step in steps])
    eroded = np.logical_and.reduce([in_row[step : step + len(bits)] for step in steps])
    return bits & ~pack(eroded.view(np.uint8))


def intersections(
    first: Sequence[Bits],
    first_boxes: NDArray[np.int64],
    second: Sequence[Bits],
    second_boxes: NDArray[np.int64],
    symmetric: bool,
    num_threads: int,
) -> NDArray[np.int64]:
    """Count the pixels that each mask of ``first`` shares with each of ``second``."""
    del first_boxes, second_boxes, symmetric, num_threads  # they only make it faster
    counts = np.zeros((len(first), len(second)), np.int64)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            counts[i, j] = np.count_nonzero(np.unpackbits((a & b).view(np.uint8)))
    return counts


def _check_sum(counts: Counts, height: int, width: int) -> None:
    left = height * width
    for count in counts.tolist():
        if not 0 <= count <= left:
            raise ValueError(
                f"rle: counts must not be negative and must sum to {height} * {width} = "
                f"{height * width}, got a run of {count} with {left} pixels left"
            )
        left -= count
    if left != 0:
        raise ValueError(
            f"rle: counts must sum to {height} * {width} = {height * width}, "
            f"got {height * width - left}"
        )
