"""All cases, in the order of the table."""

from __future__ import annotations

from fastregion.benchmarking import decoding, encoder, masks, packing, regions, resizing, roi
from fastregion.benchmarking.measure import Case

CASES: tuple[Case, ...] = (
    *roi.CASES,
    *masks.CASES,
    *resizing.CASES,
    *encoder.CASES,
    *packing.CASES,
    *decoding.CASES,
    *regions.CASES,
)
