"""How sure a mean over items is: the bootstrap over items, alone and paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "bootstrap", "paired_bootstrap"]

_RESAMPLES = 2000
_SEED = 0
_DRAWN_AT_A_TIME = 1 << 18  # items: 2 MiB of numbers
_TAIL = 2.5  # percent on either side: 95 % intervals


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and where 95 % of the means of resampled items lie.

    Attributes:
        mean: of the items themselves.
        low: lower end.
        high: upper end.
    """

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float]) -> Interval:
    """The percentile interval of the mean; the same for the same values.

    Args:
        values: one an item, at least one.
    """
    array = np.asarray(values, np.float64)
    low, high = np.percentile(_means(array), (_TAIL, 100 - _TAIL))
    return Interval(mean=float(array.mean()), low=float(low), high=float(high))


def paired_bootstrap(values: Sequence[float], others: Sequence[float]) -> Interval:
    """The same of the mean difference ``others - values`` of the same items.

    Args:
        values: one an item, at least one.
        others: of the same items, in the same order.
    """
    if len(values) != len(others):
        raise ValueError(f"others: expected {len(values)} numbers, got {len(others)}")
    return bootstrap((np.asarray(others, np.float64) - np.asarray(values, np.float64)).tolist())


def _means(array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The means of so many draws of as many items, with replacement."""
    random = np.random.default_rng(_SEED)
    means: list[npt.NDArray[np.float64]] = []
    at_a_time = max(1, _DRAWN_AT_A_TIME // len(array))
    for start in range(0, _RESAMPLES, at_a_time):
        rows = min(at_a_time, _RESAMPLES - start)
        means.append(array[random.integers(len(array), size=(rows, len(array)))].mean(axis=1))
    return np.concatenate(means)
