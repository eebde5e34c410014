"""All cases, in the order of the table."""

from __future__ import annotations

from fastregion.benchmarking import masks, packing, regions, roi
from fastregion.benchmarking.measure import Case

CASES: tuple[Case, ...] = (*roi.CASES, *masks.CASES, *packing.CASES, *regions.CASES)
