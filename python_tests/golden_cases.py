"""Golden cases: found by what their ``case.json`` says, never by the names of their folders.

They lie below the folder that the environment variable FASTREGION_GOLDEN names; without it, a small
selection of them below ``data/golden``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

VARIABLE = "FASTREGION_GOLDEN"
_SELECTION = Path(__file__).parent / "data" / "golden"


class GoldenCase:
    """One folder of reference data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def image(self, name: str) -> np.ndarray:
        return np.array(Image.open(self.folder / f"{name}.png").convert("RGB"))

    def mask(self, name: str) -> np.ndarray:
        return np.array(Image.open(self.folder / f"{name}.png")) > 0

    def __repr__(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"


def golden_cases(system: str, kind: str) -> pytest.MarkDecorator:
    """Parametrise a test over all cases of a kind, as its argument ``case``."""
    named = os.environ.get(VARIABLE)
    if named and not Path(named).is_dir():
        raise FileNotFoundError(f"{VARIABLE}: no such folder: {named}")
    found = []
    for file in sorted((Path(named) if named else _SELECTION).rglob("case.json")):
        about = json.loads(file.read_text(encoding="utf-8"))
        if (about.get("system"), about.get("kind")) == (system, kind):
            found.append(GoldenCase(file.parent))
    params = [pytest.param(case, marks=pytest.mark.golden, id=str(case)) for case in found]
    where = VARIABLE if named else f"{VARIABLE} is not set, and the selection"
    reason = f"{where} has no case of {system} of the kind {kind!r}"
    none = pytest.param(
        None, marks=[pytest.mark.golden, pytest.mark.skip(reason=reason)], id="none"
    )
    return pytest.mark.parametrize("case", params or [none])
