"""A golden case of GAR: the published model's weights and what it was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from golden_cases import GoldenCase
from torch import Tensor

from fastregion.language import PackedPrompts
from fastregion.models.gar import GarConfig
from fastregion.models.gar.checkpoint import PUBLISHED
from fastregion.models.gar.modeling import GarModel, PromptLayout
from fastregion.models.weights import load_weights


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, f"{what}: {actual.shape} and {expected.shape}"
    error = float((actual.double() - expected.double()).abs().max())
    assert error <= tolerance, f"{what}: differs by {error:.2e}"


def region_numbers(values: Tensor) -> Tensor:
    """Region ids ``[T, s, s]`` of a normalised id picture ``[T, 3, s, s]``."""
    ids = ((values + 1) / 2 * 255).round().to(torch.uint8)
    assert torch.equal(ids[:, 0], ids[:, 1])
    assert torch.equal(ids[:, 0], ids[:, 2])
    return ids[:, 0]


class Official:
    """A golden case's model and prompt."""

    def __init__(self, case: GoldenCase, folder: Path) -> None:
        self.config = GarConfig.from_dict(case.json("config.json"))
        assert self.config.replay == "released"  # what a published file means
        self.given = case.tensors("inputs")
        self.boxes: dict[str, Any] = case.json("inputs.json")["bboxes"]
        (folder / "model.safetensors").symlink_to(case.folder / "weights.safetensors")
        self.model = GarModel(self.config)
        load_weights(self.model, folder, PUBLISHED)
        self.masks = region_numbers(self.given["global_mask_values"]) != self.config.prompt_numbers

    def features(self, masks: Tensor | None) -> Tensor:
        return self.model.embed_tiles(self.given["pixel_values"], masks)

    def prompts(self, features: Tensor, replayed: Tensor) -> PackedPrompts:
        labels = self.given["labels"][0].tolist() if "labels" in self.given else None
        layout = PromptLayout(
            input_ids=self.given["input_ids"][0].tolist(),
            tiles=range(len(features)),
            regions={int(token): k for k, token in enumerate(self.boxes)},
            labels=labels,
        )
        return self.model.pack([layout], features, replayed)

    def replay(self, features: Tensor) -> Tensor:
        columns, rows = self.given["aspect_ratios"][0].tolist()
        boxes = torch.tensor(list(self.boxes.values()))
        return self.model.replay(features[1:], (rows, columns), boxes)
