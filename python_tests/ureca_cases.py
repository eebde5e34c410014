"""URECA's golden cases as models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from golden_cases import GoldenCase
from torch import Tensor

from fastregion.models import load
from fastregion.models.ureca import UrecaCaptioner

LOGITS, GRADIENTS = 1e-3, 1e-4
# What the cases add to config.json about themselves.
ABOUT_THE_CASE = ("lora_r", "lora_alpha", "max_dynamic_patch_used", "optimizer")


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Within a share of the largest expected value."""
    assert actual.shape == expected.shape, f"{what}: {actual.shape} and {expected.shape}"
    error = float((actual.detach().double() - expected.double()).abs().max())
    limit = tolerance * max(float(expected.abs().max()), 1e-30)
    assert error <= limit, f"{what}: differs by {error:.2e}, more than {limit:.2e}"


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def config_values(case: GoldenCase) -> dict[str, Any]:
    values = case.json("config.json")
    return {key: value for key, value in values.items() if key not in ABOUT_THE_CASE}


def make_folder(case: GoldenCase, folder: Path, values: dict[str, Any] | None = None) -> Path:
    """The case's model as a checkpoint."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(config_values(case) if values is None else values)
    (folder / "config.json").write_text(text)
    for name, source in (("tokenizer.json",) * 2, ("model.safetensors", "weights.safetensors")):
        shutil.copyfile(case.folder / source, folder / name)
    return folder


def captioner_of(case: GoldenCase, folder: Path) -> UrecaCaptioner:
    captioner = load(make_folder(case, folder / "model"))
    assert isinstance(captioner, UrecaCaptioner)
    about = case.json("config.json")
    captioner.max_num = about.get("max_dynamic_patch_used", about["max_dynamic_patch"])
    return captioner
