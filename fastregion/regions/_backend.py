"""Which implementation of the region functions runs: native, or the NumPy reference."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fastregion._native import native_module
from fastregion.regions import _reference

Bits = NDArray[np.uint64]
Counts = NDArray[np.int64]
IntBox = tuple[int, int, int, int]


class RegionsBackend(Protocol):
    """The functions that both implementations provide.

    ``bits`` are the packed rows of a mask, uint64 ``[H, ceil(W / 64)]``: pixel (y, x) is bit
    ``x % 64`` of ``bits[y, x // 64]``, bits past the width are 0. ``counts`` are COCO run lengths,
    int64 ``[runs]``: column by column, of 0 and of 1 in turn, starting with 0. ``text`` is their
    compressed form. Malformed counts raise ValueError.
    """

    def pack(self, mask: NDArray[np.uint8]) -> Bits:
        """Return the bits of a mask ``[H, W]``; not 0 is inside."""

    def unpack(self, bits: Bits, width: int) -> NDArray[np.bool_]:
        """Return the mask ``[H, W]``."""

    def extent(self, bits: Bits, width: int) -> tuple[int, IntBox]:
        """Return area and half-open box (x0, y0, x1, y1); zeros for an empty mask."""

    def coordinate_sums(self, bits: Bits, width: int) -> tuple[int, int]:
        """Return the sums of the column and of the row indices of the pixels."""

    def bits_to_counts(self, bits: Bits, width: int) -> Counts:
        """Return the run lengths."""

    def bits_to_string(self, bits: Bits, width: int) -> bytes:
        """Return the compressed run lengths."""

    def counts_to_bits(self, counts: Counts, height: int, width: int) -> Bits:
        """Paint run lengths, which must sum to ``height * width``."""

    def string_to_bits(self, text: bytes, height: int, width: int) -> Bits:
        """Paint compressed run lengths."""

    def strings_to_masks(
        self, texts: list[bytes], height: int, width: int, num_threads: int
    ) -> NDArray[np.bool_]:
        """Paint compressed run lengths of N masks of one size: ``[N, H, W]``."""

    def counts_to_string(self, counts: Counts) -> bytes:
        """Compress run lengths."""

    def string_to_counts(self, text: bytes) -> Counts:
        """Read compressed run lengths."""

    def counts_extent(self, counts: Counts, height: int, width: int) -> tuple[int, IntBox]:
        """Return area and box (x, y, width, height) without painting."""

    def string_extent(self, text: bytes, height: int, width: int) -> tuple[int, IntBox]:
        """Return area and box (x, y, width, height) without painting."""

    def polygon_to_bits(self, points: NDArray[np.float64], height: int, width: int) -> Bits:
        """Fill a closed polygon ``[K, 2]`` of (x, y) as COCO does."""

    def resize(
        self, bits: Bits, width: int, new_height: int, new_width: int, num_threads: int
    ) -> Bits:
        """Resize to the nearest pixel: (i, j) is (i * H // new_height, j * W // new_width)."""

    def boundary(self, bits: Bits, width: int, radius: int, num_threads: int) -> Bits:
        """Return the pixels with one at most ``radius`` rows and columns away that is not set.

        Outside of the image nothing is set.
        """

    def intersections(
        self,
        first: Sequence[Bits],
        first_boxes: NDArray[np.int64],
        second: Sequence[Bits],
        second_boxes: NDArray[np.int64],
        symmetric: bool,
        num_threads: int,
    ) -> NDArray[np.int64]:
        """Count common pixels ``[N, M]``; boxes are ``[N, 4]`` as :meth:`extent` returns them."""


@functools.cache
def backend() -> RegionsBackend:
    """Return the native functions, or the reference (after a warning) when they are missing."""
    native = native_module()
    return cast(RegionsBackend, _reference if native is None else native.regions)


def num_threads() -> int:
    """Return torch's number of CPU threads when torch is loaded, else 1.

    This floor does not import torch: a process that only handles masks should not wait for it.
    """
    torch = sys.modules.get("torch")
    return 1 if torch is None else int(torch.get_num_threads())
