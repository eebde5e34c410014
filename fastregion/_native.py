"""The native module, or the news that it is missing.

The package works without it, on the reference implementations, so nothing here raises; the first
look-up that finds it missing warns once.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType


@functools.cache
def native_module() -> ModuleType | None:
    """Return ``fastregion._C``, or None after one warning that says how to build it."""
    try:
        return importlib.import_module("fastregion._C")
    except ImportError as error:
        warnings.warn(
            f"fastregion: the native module does not load ({error}); running on the reference "
            "implementations, which are much slower. Rebuild with: pip install .",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
