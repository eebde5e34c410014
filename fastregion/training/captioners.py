"""Captioners that are trained: from a checkpoint into memory, and from memory into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from fastregion.models import load
from fastregion.models.base import Captioner
from fastregion.training.lora import add_lora, has_lora, merged_lora, save_adapter

if TYPE_CHECKING:
    from fastregion.training.recipe import Lora, Recipe

__all__ = ["ADAPTER", "load_captioner", "low_rank", "save_captioner"]

ADAPTER = "adapter"  # the folder of low-rank updates inside that of the merged checkpoint

Kind = TypeVar("Kind", bound=Captioner)


def load_captioner(recipe: Recipe, kind: type[Kind]) -> Kind:
    """The captioner that ``recipe.start_from`` names, in float32.

    Raises:
        ValueError: the recipe names none, or one of another kind.
        FileNotFoundError, NotImplementedError: as for :func:`fastregion.load`.
    """
    if recipe.start_from is None:
        raise ValueError(f"start_from: {recipe.system} starts from a checkpoint, got none")
    captioner = load(recipe.start_from, dtype=torch.float32)
    if not isinstance(captioner, kind):
        raise ValueError(
            f"start_from: expected a checkpoint of {kind.model_type!r}, "
            f"got {captioner.model_type!r} in {recipe.start_from!r}"
        )
    return captioner


def low_rank(captioner: Captioner, lora: Lora | None) -> None:
    """Train low-rank updates as a recipe says; all weights where it says nothing.

    Raises:
        ImportError, ValueError: as for :func:`fastregion.training.lora.add_lora`.
    """
    if lora is not None:
        add_lora(
            captioner,
            rank=lora.rank,
            alpha=lora.alpha,
            dropout=lora.dropout,
            targets=lora.targets,
            also_train=lora.also_train,
        )


def save_captioner(captioner: Captioner, folder: Path) -> None:
    """Write what ``fastregion.load`` reads; updates merged, and by themselves in ``adapter/``."""
    with merged_lora(captioner):
        captioner.save_pretrained(folder)
    if has_lora(captioner):
        save_adapter(captioner, folder / ADAPTER)
