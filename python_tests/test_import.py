"""``import fastregion`` is light, and its face is complete."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import pytest

import fastregion


def added_by_fastregion(before: str = "pass") -> set[str]:
    """Modules that ``import fastregion`` adds to a fresh interpreter after the statement."""
    code = f"import sys\n{before}\nold = set(sys.modules)\nimport fastregion\n"
    code += "print(*set(sys.modules) - old)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(result.stdout.split())


def test_import_brings_nothing_heavy() -> None:
    added = added_by_fastregion()
    packages = {name.partition(".")[0] for name in added}
    assert not packages & {"torch", "numpy", "PIL", "transformers", "torchvision", "timm", "rich"}
    assert len(added) < 60


def test_import_beside_torch_adds_next_to_nothing() -> None:
    assert len(added_by_fastregion("import torch")) < 30


def test_face() -> None:
    assert set(fastregion.__all__) <= set(dir(fastregion))
    for name in fastregion.__all__:
        assert getattr(fastregion, name) is getattr(fastregion, name)
    assert fastregion.describe.__module__ == "fastregion.api"
    assert fastregion.Region.__name__ == "Region"
    with pytest.raises(AttributeError, match="module 'fastregion' has no attribute 'caption'"):
        _ = fastregion.caption  # type: ignore[attr-defined]


def test_types_are_announced() -> None:
    assert files("fastregion").joinpath("py.typed").is_file()
