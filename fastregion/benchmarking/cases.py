"""All cases, in the order of the table."""

from __future__ import annotations

from fastregion.benchmarking import (
    attention,
    decoder,
    decoding,
    encoder,
    gar,
    masks,
    packing,
    regions,
    resizing,
    roi,
)
from fastregion.benchmarking.measure import Case

CASES: tuple[Case, ...] = (
    *roi.CASES,
    *masks.CASES,
    *resizing.CASES,
    *encoder.CASES,
    *packing.CASES,
    *attention.CASES,
    *decoding.CASES,
    *decoder.CASES,
    *regions.CASES,
    *gar.CASES,
)
