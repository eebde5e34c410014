"""Libraries that are timed where they are installed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

OPTIONAL = ("torchvision", "pycocotools")


@cache
def torchvision_ops() -> ModuleType | None:
    """Torchvision's operators, or None where it is missing or does not fit torch."""
    try:
        return import_module("torchvision.ops")
    except (ImportError, RuntimeError):
        return None


@cache
def pycocotools_mask() -> ModuleType | None:
    """Pycocotools' mask functions, or None where they are missing."""
    try:
        return import_module("pycocotools.mask")
    except ImportError:
        return None


def missing() -> tuple[str, ...]:
    """Names of the libraries that cannot be timed here."""
    found = (torchvision_ops(), pycocotools_mask())
    return tuple(name for name, module in zip(OPTIONAL, found, strict=True) if module is None)
