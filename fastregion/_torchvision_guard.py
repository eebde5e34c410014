"""Keeps a broken torchvision from taking transformers down with it.

A torchvision built for another torch still *looks* installed, but importing it raises
(``RuntimeError: operator torchvision::nms does not exist``). transformers asks only whether it is
installed, imports it while loading its image helpers, and then nearly every model import dies,
text-only models included. fastregion itself never needs torchvision.

So before the first transformers import, an installed torchvision is imported once, here and nowhere
else. This cannot be decided from version numbers (builds of one version differ by CUDA and by
vendor), and it costs nothing extra: transformers would import the same modules a moment later.
When it raises, the half-imported modules are dropped and ``sys.modules["torchvision"] = None``, the
import system's own mark for a module that must not be imported, hides it from this process.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import warnings
from types import ModuleType

__all__ = ["ensure", "import_transformers"]

_lock = threading.Lock()
_tested = False


def ensure() -> None:
    """Hide torchvision from transformers if it is installed but cannot be imported.

    Call before importing anything from transformers. The test runs once per process; without
    torchvision it is a single look-up.

    Warns:
        RuntimeWarning: once, when a broken torchvision was found; says how to repair it.
    """
    global _tested
    with _lock:
        if _tested:
            return
        error = _import_error()
        if error is not None:
            _hide()
        _tested = True
    if error is not None:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"torchvision is installed but cannot be imported ({reason}); it does not match the "
            "installed torch and is ignored in this process. fastregion does not need it: repair "
            "it with `pip install --force-reinstall torchvision` (the build made for your "
            "torch) or remove it with `pip uninstall torchvision`",
            RuntimeWarning,
            stacklevel=2,
        )


def import_transformers(submodule: str | None = None) -> ModuleType:
    """Import transformers, or one of its submodules, after :func:`ensure`.

    Args:
        submodule: dotted name below ``transformers``, such as ``"models.llama"``; naming it keeps
            the import lean.

    Raises:
        ImportError: transformers or the submodule is not installed.
    """
    ensure()
    return importlib.import_module("transformers" + (f".{submodule}" if submodule else ""))


def _import_error() -> Exception | None:
    """What importing torchvision raises; None when it works, is absent or was decided before."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # an ABI mismatch shows as RuntimeError, OSError, AttributeError...
        return error
    return None


def _hide() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    # If transformers is there already, it may remember that it saw torchvision.
    import_utils = sys.modules.get("transformers.utils.import_utils")
    for check in ("is_torchvision_available", "is_torchvision_v2_available"):
        forget = getattr(getattr(import_utils, check, None), "cache_clear", None)
        if forget is not None:
            forget()
