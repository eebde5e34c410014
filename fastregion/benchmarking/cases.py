"""All cases, in the order of the table."""

from __future__ import annotations

from fastregion.benchmarking import (
    attention,
    dam,
    decoder,
    decoding,
    encoder,
    gar,
    gated_cross_attention,
    masks,
    packing,
    pix2cap,
    regions,
    resizing,
    roi,
    training,
    ureca,
)
from fastregion.benchmarking.measure import Case

CASES: tuple[Case, ...] = (
    *roi.CASES,
    *masks.CASES,
    *resizing.CASES,
    *encoder.CASES,
    *packing.CASES,
    *attention.CASES,
    *gated_cross_attention.CASES,
    *decoding.CASES,
    *decoder.CASES,
    *regions.CASES,
    *gar.CASES,
    *dam.CASES,
    *ureca.CASES,
    *pix2cap.CASES,
    *training.CASES,
)
