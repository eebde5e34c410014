"""Recorded model outputs and judges' answers: found below $FASTREGION_GOLDEN by what they are.

Nothing here knows how many files or regions there are, or what their models are called.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden_cases import VARIABLE

__all__ = ["golden_files", "read_golden"]


def golden_files(*patterns: str, keep: Callable[[Path], bool] = lambda _: True) -> Any:
    """Parametrise a test over files below the golden folder, as its argument ``file``."""
    root = os.environ.get(VARIABLE)
    found: list[Path] = []
    if root:
        found = sorted({f for p in patterns for f in Path(root).rglob(p) if keep(f)})
    params = [pytest.param(f, marks=pytest.mark.golden, id=f.stem) for f in found]
    reason = f"{VARIABLE} is not set" if not root else f"no {' or '.join(patterns)} below it"
    none = pytest.param(
        None, marks=[pytest.mark.golden, pytest.mark.skip(reason=reason)], id="none"
    )
    return pytest.mark.parametrize("file", params or [none])


@functools.cache
def read_golden(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
