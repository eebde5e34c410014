"""fastregion: describe regions of images in words.

>>> import fastregion as fr
>>> fr.describe("street.jpg", fr.Region.from_box((40, 60, 220, 300)))  # doctest: +SKIP

Everything is imported on first use, so that ``import fastregion`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastregion._version import __version__

if TYPE_CHECKING:
    from fastregion.api import describe, load
    from fastregion.models.base import Captioner
    from fastregion.models.description import Description
    from fastregion.regions import Region

__all__ = ["Captioner", "Description", "Region", "__version__", "describe", "load"]

_HOME = {
    "Captioner": "fastregion.models.base",
    "Description": "fastregion.models.description",
    "Region": "fastregion.regions",
    "describe": "fastregion.api",
    "load": "fastregion.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'fastregion' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
