"""How sure a number is: intervals over items, and the spread over repeats of a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "bootstrap_interval", "spread"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with its percentile interval."""

    value: float
    low: float
    high: float


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())


def bootstrap_interval(
    values: Sequence[float],
    *,
    statistic: Callable[[NDArray[np.float64]], float] = _mean,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap (Efron, 1979) over items: regions are drawn with replacement.

    Args:
        values: one for each item, or one row for each item, ``[N]`` or ``[N, K]``.
        statistic: of drawn values, such as a ratio of means.
        resamples: how often all are drawn.
        level: share of the draws inside the interval.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        ValueError: no values, fewer than one draw, or a level outside (0, 1).
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or not len(array):
        raise ValueError("values: expected at least one item, got none")
    if resamples < 1:
        raise ValueError(f"resamples: must be at least 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level: must be between 0 and 1, got {level}")
    random = np.random.default_rng(seed)
    drawn = [
        statistic(array[random.integers(len(array), size=len(array))]) for _ in range(resamples)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value=statistic(array), low=float(low), high=float(high))


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation over repeats; the deviation of one is 0.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("values: expected at least one repeat, got none")
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0
