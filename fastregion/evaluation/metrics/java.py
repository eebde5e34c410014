"""What metrics that run in Java need: a Java, and the jars of the package pycocoevalcap."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from fastregion.evaluation.metrics.common import MetricUnavailable

__all__ = ["find_jar", "find_java"]


def find_java(metric: str) -> str:
    """The Java to run.

    Raises:
        MetricUnavailable: there is none.
    """
    java = shutil.which("java")
    if java is None:
        raise MetricUnavailable(f"{metric} needs Java 8 or newer, and no java is on the PATH")
    return java


def find_jar(metric: str, name: str) -> Path:
    """A file of pycocoevalcap, which is not imported.

    Args:
        metric: whose it is.
        name: relative to the package's folder.

    Raises:
        MetricUnavailable: the package, or the file, is missing.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / name
        if file.is_file():
            return file
    raise MetricUnavailable(
        f'{metric} needs {name} of the package pycocoevalcap: pip install "fastregion[eval]"'
    )
