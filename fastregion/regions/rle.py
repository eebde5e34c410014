"""COCO run-length encoding of masks, read and written exactly as pycocotools does.

An RLE is a dict ``{"size": [height, width], "counts": ...}``. Pixels are taken column by column;
``counts`` are the lengths of runs of 0 and of 1 in turn, starting with 0 (the first may be 0). They
come as a list of integers (*uncompressed*) or as text (*compressed*, ``str`` or ``bytes``). The
functions read both and write compressed ``str``, which JSON can hold; pycocotools writes the same
characters as ``bytes``.

Raises (all functions that take an RLE):
    TypeError: not a dict, or counts of another type.
    ValueError: a missing key, a size that is not two positive integers or exceeds ``MAX_PIXELS``,
        text that is not a counts string, counts that do not sum to the size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from fastregion.regions._backend import Bits, Counts, IntBox, backend, num_threads
from fastregion.regions.masks import mask_values
from fastregion.regions.sizes import Size, check_size


class CompressedRle(TypedDict):
    """A COCO RLE with compressed counts."""

    size: list[int]
    counts: str


class UncompressedRle(TypedDict):
    """A COCO RLE with plain run lengths."""

    size: list[int]
    counts: list[int]


def rle_encode(mask: Any) -> CompressedRle:
    """Encode a mask ``[H, W]``: anything that :meth:`Region.from_mask` takes."""
    values = mask_values(mask)
    return rle_from_bits(backend().pack(values.view(np.uint8)), values.shape[1])


def rle_decode(rle: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """Decode an RLE to a boolean mask ``[H, W]``, or a list of RLEs of one size to ``[N, H, W]``.

    A list is faster than its masks one by one: they share one allocation and torch's CPU threads.

    Raises:
        ValueError: also for RLEs of several sizes, or an empty list, which has none.
    """
    if isinstance(rle, Sequence):
        return _decode_all(rle)
    bits, (_, width) = bits_from_rle(rle)
    return backend().unpack(bits, width)


def _decode_all(rles: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    read = [_read(rle) for rle in rles]
    sizes = {size for _, size in read}
    if len(sizes) != 1:
        raise ValueError(
            f"rle_decode: the RLEs of a list must have the same size, got {sorted(sizes)}"
        )
    texts = [
        counts if isinstance(counts, bytes) else backend().counts_to_string(counts)
        for counts, _ in read
    ]
    return backend().strings_to_masks(texts, *sizes.pop(), num_threads())


def rle_area(rle: Mapping[str, Any]) -> int:
    """Return the number of pixels inside, without painting them."""
    return _extent(rle)[0]


def rle_to_bbox(rle: Mapping[str, Any]) -> IntBox:
    """Return (x, y, width, height) in pixels with exclusive ends, as pycocotools' ``toBbox``.

    Zeros for an empty mask.
    """
    return _extent(rle)[1]


def rle_compress(rle: Mapping[str, Any]) -> CompressedRle:
    """Return the RLE with compressed counts; the runs are kept as they are."""
    counts, size = _read_lengths(rle)
    return {"size": list(size), "counts": backend().counts_to_string(counts).decode("ascii")}


def rle_uncompress(rle: Mapping[str, Any]) -> UncompressedRle:
    """Return the RLE with a list of run lengths; the runs are kept as they are."""
    counts, size = _read_lengths(rle)
    return {"size": list(size), "counts": counts.tolist()}


def rle_from_bits(bits: Bits, width: int) -> CompressedRle:
    """Encode packed rows; see :class:`fastregion.regions.Region` for their layout."""
    text = backend().bits_to_string(bits, width)
    return {"size": [bits.shape[0], width], "counts": text.decode("ascii")}


def bits_from_rle(rle: Mapping[str, Any], size: Size | None = None) -> tuple[Bits, Size]:
    """Decode an RLE, which must be of ``size`` if that is given, to packed rows and its size."""
    counts, (height, width) = _read(rle, size)
    if isinstance(counts, bytes):
        return backend().string_to_bits(counts, height, width), (height, width)
    return backend().counts_to_bits(counts, height, width), (height, width)


def _read(rle: Mapping[str, Any], expected: Size | None = None) -> tuple[bytes | Counts, Size]:
    """Return the counts, as bytes or as run lengths, and the size."""
    if not isinstance(rle, Mapping):
        raise TypeError(f"rle: must be a dict with size and counts, got {type(rle).__name__}")
    if "size" not in rle or "counts" not in rle:
        raise ValueError(f"rle: must have the keys size and counts, got {sorted(map(str, rle))}")
    size = check_size("rle: size", rle["size"])
    if expected is not None and size != expected:
        raise ValueError(f"rle: expected size {expected} to match the image, got {size}")
    counts = rle["counts"]
    if isinstance(counts, str):
        if not counts.isascii():
            raise ValueError("rle: counts must be made of the characters 0 to o, got others")
        return counts.encode("ascii"), size
    if isinstance(counts, bytes):
        return counts, size
    if isinstance(counts, list | tuple | np.ndarray):
        lengths = np.asarray(counts)
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or lengths.dtype == np.uint64:
            raise TypeError(
                "rle: counts must be a flat list of integers, "
                f"got {lengths.ndim} dimensions of {lengths.dtype}"
            )
        if lengths.size and int(lengths.min()) < 0:
            raise ValueError(f"rle: counts must not be negative, got {int(lengths.min())}")
        return lengths.astype(np.int64), size
    raise TypeError(
        f"rle: counts must be str, bytes or a list of integers, got {type(counts).__name__}"
    )


def _read_lengths(rle: Mapping[str, Any]) -> tuple[Counts, Size]:
    counts, size = _read(rle)
    lengths = backend().string_to_counts(counts) if isinstance(counts, bytes) else counts
    backend().counts_extent(lengths, *size)  # judges the sum
    return lengths, size


def _extent(rle: Mapping[str, Any]) -> tuple[int, IntBox]:
    counts, (height, width) = _read(rle)
    if isinstance(counts, bytes):
        return backend().string_extent(counts, height, width)
    return backend().counts_extent(counts, height, width)
