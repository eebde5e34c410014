"""The one timer: interleaved medians, and how far from the machine's limit they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MOST_ROUNDS, _FEWEST_ROUNDS = 21, 3
_COPIED_BYTES = 256 * 2**20  # far more than any cache holds, a GPU's too

Call = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Ways:
    """The data of a case, as calls that need no more arguments.

    Attributes:
        ours: The operator; its outputs are allocated by the call.
        peers: Other ways to the same result, by name.
        bytes: What has to be read and written at least.
        tolerance: By how much results may differ, as a share of the largest value of each; 0 means
            equal.
        comparable: Brings the results of all ways to one form before they are compared.
    """

    ours: Call
    peers: Mapping[str, Call]
    bytes: int
    tolerance: float = 0.0
    comparable: Callable[[Any], Any] = lambda result: result


@dataclass(frozen=True, kw_only=True)
class Case:
    """One shape of one operator.

    Attributes:
        operator: Name of the operator or function.
        shape: The shape in words.
        dtype: Name of the dtype.
        make: Makes the data on a device.
        devices: Types of device that it can run on.
    """

    operator: str
    shape: str
    dtype: str
    make: Callable[[torch.device], Ways]
    devices: tuple[str, ...] = ("cpu", "cuda")

    def __str__(self) -> str:
        return f"{self.operator}, {self.shape}, {self.dtype}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of a case; times in milliseconds.

    Attributes:
        case: The case.
        ours_ms: Median time of the operator.
        ours_spread: Distance of the quartiles of that time, as a share of the median.
        peers_ms: Median time of every peer.
        bytes: See :class:`Ways`.
        roof_share: The time that ``bytes`` take at the speed of a copy, as a share of ``ours_ms``.
            More than 1 means that the data stayed in a cache.
    """

    case: Case
    ours_ms: float
    ours_spread: float
    peers_ms: Mapping[str, float] = field(default_factory=dict)
    bytes: int
    roof_share: float

    def ratio(self, peer: str) -> float:
        """How many times longer a peer takes."""
        return self.peers_ms[peer] / self.ours_ms

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return {
            "operator": self.case.operator,
            "shape": self.case.shape,
            "dtype": self.case.dtype,
            "ours_ms": self.ours_ms,
            "ours_spread": self.ours_spread,
            "peers": [
                {"name": name, "ms": ms, "ratio": self.ratio(name)}
                for name, ms in self.peers_ms.items()
            ],
            "bytes": self.bytes,
            "roof_share": self.roof_share,
        }


def measure(
    case: Case, device: torch.device, bandwidth: float, seconds: float = 1.0
) -> tuple[Row, Ways]:
    """Checks that all ways of a case agree, then times them in turn.

    Args:
        case: What to measure.
        device: Where.
        bandwidth: Of a copy on that device, in bytes per second: :func:`copy_bandwidth`.
        seconds: About how long to time; at least 3 and at most 21 rounds are run.

    Returns:
        The row, and the ways themselves for whoever wants to go on.

    Raises:
        AssertionError: A peer has another result.
    """
    ways = case.make(device)
    expected = ways.comparable(ways.ours())
    for name, call in ways.peers.items():
        result = ways.comparable(call())
        _check_equal(result, expected, ways.tolerance, f"{case}: {name} has another result")
    times = _interleaved({"": ways.ours, **ways.peers}, device, seconds)
    low, ours, high = quantiles(times.pop(""), n=4)
    row = Row(
        case=case,
        ours_ms=1e3 * ours,
        ours_spread=(high - low) / ours,
        peers_ms={name: 1e3 * median(values) for name, values in times.items()},
        bytes=ways.bytes,
        roof_share=ways.bytes / bandwidth / ours,
    )
    return row, ways


def _interleaved(
    calls: Mapping[str, Call], device: torch.device, seconds: float
) -> dict[str, list[float]]:
    """Seconds of each call. They take turns, so that a busy moment hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    begin = time.perf_counter()
    for done in range(_MOST_ROUNDS):
        if done >= _FEWEST_ROUNDS and time.perf_counter() - begin > seconds:
            break
        for name, call in calls.items():
            times[name].append(_time(call, device))
    return times


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a large copy, with torch's number of threads."""
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = _interleaved({"copy": lambda: target.copy_(source)}, device, 0.5)["copy"]
    return 2 * _COPIED_BYTES / median(seconds)


def _time(call: Call, device: torch.device) -> float:
    if device.type == "cuda":
        return _time_on_gpu(call, device)
    begin = time.perf_counter()
    result = call()
    end = time.perf_counter()
    del result  # freed after the clock has stopped, for all alike
    return end - begin


def _time_on_gpu(call: Call, device: torch.device) -> float:
    """Seconds between two events of the stream, the L2 cache full of other data before."""
    begin, end = (torch.Event(device, enable_timing=True) for _ in range(2))
    torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
    begin.record()
    result = call()
    end.record()
    end.synchronize()
    del result
    return 1e-3 * float(begin.elapsed_time(end))


def _check_equal(result: Any, expected: Any, tolerance: float, message: str) -> None:
    if isinstance(expected, Tensor):
        size = expected.double().abs().max().item() if expected.numel() else 0.0
        torch.testing.assert_close(
            result.double(),
            expected.double(),
            rtol=0.0,
            atol=tolerance * size,
            msg=lambda details: f"{message}: {details}",
        )
    elif isinstance(expected, list):
        assert len(result) == len(expected), message
        for one, other in zip(result, expected, strict=True):
            _check_equal(one, other, tolerance, message)
    elif hasattr(expected, "__array__"):
        _check_equal(_copied(result), _copied(expected), tolerance, message)
    else:
        assert result == expected, message


def _copied(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))  # torch warns of arrays that are read-only
