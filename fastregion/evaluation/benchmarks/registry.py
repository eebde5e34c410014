"""Benchmarks by name: the one list."""

from __future__ import annotations

import importlib

from fastregion.evaluation.benchmarks.base import Benchmark

__all__ = ["NAMES", "find_benchmark"]

# Where each is; imported when it is wanted.
_CLASSES = {
    "dlc-bench": ("fastregion.evaluation.benchmarks.dlc_bench", "DlcBench"),
    "dlc-bench-image": ("fastregion.evaluation.benchmarks.dlc_bench", "DlcBenchImage"),
    "gar-bench-vqa": ("fastregion.evaluation.benchmarks.gar_bench_vqa", "GarBenchVqa"),
    "gar-bench-cap": ("fastregion.evaluation.benchmarks.gar_bench_cap", "GarBenchCap"),
    "scenes": ("fastregion.evaluation.benchmarks.scenes", "Scenes"),
}

NAMES = tuple(_CLASSES)
"""All names, in the order in which they are listed."""


def find_benchmark(name: str) -> type[Benchmark]:
    """The class of a benchmark.

    Raises:
        ValueError: no benchmark has this name; the message lists those that there are.
    """
    if name not in _CLASSES:
        raise ValueError(f"benchmark: expected one of {', '.join(NAMES)}, got {name!r}")
    module, class_name = _CLASSES[name]
    found: type[Benchmark] = getattr(importlib.import_module(module), class_name)
    return found
