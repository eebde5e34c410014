"""Benchmarks by name: the one list."""

from __future__ import annotations

import importlib

from fastregion.evaluation.benchmarks.base import Benchmark

__all__ = ["NAMES", "find_benchmark"]

# Where each is; imported when it is wanted.
_CLASSES = {
    "scenes": ("fastregion.evaluation.benchmarks.scenes", "Scenes"),
    "scene-questions": ("fastregion.evaluation.benchmarks.scene_questions", "SceneQuestions"),
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
