"""Golden JSON files of vectors: found by their keys, whatever their folders are called."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from golden_cases import VARIABLE


def golden_json(argument: str, keys: set[str]) -> pytest.MarkDecorator:
    """Parametrise a test over all JSON objects below the golden folder that have some keys."""
    root = os.environ.get(VARIABLE)
    found: list[tuple[str, Any]] = []
    for file in sorted(Path(root).rglob("*.json")) if root else ():
        if file.stat().st_size > 1 << 20:  # annotations and model outputs, not vectors
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and keys <= content.keys():
            found.append((str(file.relative_to(str(root))), content))
    params = [pytest.param(content, marks=pytest.mark.golden, id=name) for name, content in found]
    reason = f"{VARIABLE} " + (f"has no such file with {keys}" if root else "is not set")
    none = pytest.param(
        None, marks=[pytest.mark.golden, pytest.mark.skip(reason=reason)], id="none"
    )
    return pytest.mark.parametrize(argument, params or [none])
