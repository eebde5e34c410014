"""The native module, or the news that it is missing.

The package works without it, on the reference implementations, so nothing here raises; the first
look-up that finds it missing warns once.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from pathlib import Path
from types import ModuleType


@functools.cache
def native_module() -> ModuleType | None:
    """Return ``fastregion._C``, or None after one warning that says how to build it."""
    try:
        return importlib.import_module("fastregion._C")
    except ImportError as error:
        in_source_tree = (Path(__file__).parents[1] / "pyproject.toml").is_file()
        advice = (
            "This is the source tree, which hides the installed package: run from another folder"
            if in_source_tree
            else "Rebuild with: pip install ."
        )
        warnings.warn(
            f"fastregion: the native module does not load ({error}); running on the reference "
            f"implementations, which are much slower. {advice}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
