"""From a name or a folder to a captioner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastregion.models import auto, load


def test_known_names_load_the_packaged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(auto, "_load_folder", lambda *args, **more: asked.append((args, more)))
    load("mini")
    load("fastregion/mini")
    folder = Path(auto.__file__).parent / "mini" / "weights"
    assert asked == [((folder,), {"model_id": "fastregion/mini", "dtype": None})] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_built_in_model_runs_in_other_types(dtype: torch.dtype) -> None:
    image = np.full((60, 80, 3), 200, np.uint8)
    image[10:40, 20:60] = (255, 0, 0)
    captioner = load("mini", dtype=dtype)
    assert next(captioner.model.parameters()).dtype == dtype
    assert "red" in captioner.describe(image, (20, 10, 60, 40))
    score = captioner.score(image, (20, 10, 60, 40), "A red rectangle.")
    assert score == pytest.approx(
        load("mini").score(image, (20, 10, 60, 40), "A red rectangle."), abs=0.1
    )


@pytest.mark.parametrize("name", ["Pix2Cap", "someone/pix2cap-large", "URECA", "a/ureca-8b"])
def test_systems_without_names_are_told(name: str) -> None:
    with pytest.raises(ValueError, match=r"model: .* is loaded from its published files, got"):
        load(name)


@pytest.mark.parametrize("name", ["nothing", "fastregion/maxi", "", "a/damask", "garlic"])
def test_unknown_names_list_what_is_known(name: str) -> None:
    with pytest.raises(ValueError, match=r"model: unknown name .*; available: fastregion/mini, "):
        load(name)


def test_wrong_type() -> None:
    with pytest.raises(TypeError, match="model: expected a name or a folder, got int"):
        load(3)  # type: ignore[arg-type]


def test_folder_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_mistral"}))
    with pytest.raises(
        ValueError, match="model of type 'llava_mistral'; known types: fastregion-mini, GAR, llava"
    ):
        load(tmp_path)
