"""The systems that can be trained, one module each, imported when it is asked for.

A module has ``Options``, a dataclass of the settings that only this system has, and
``build_task(recipe, options) -> Task``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fastregion.models.patterns import fits, require_fit
from fastregion.training.settings import from_mapping
from fastregion.training.task import Task

if TYPE_CHECKING:
    from fastregion.training.recipe import Recipe

__all__ = ["MAKES_ROWS", "SYSTEMS", "build_task"]

SYSTEMS = ("gar", "dam", "ureca", "pix2cap", "mini")
MAKES_ROWS = ("mini",)  # where a recipe names none


def build_task(recipe: Recipe) -> Task:
    """Build what a recipe trains, with the parameters that it trains.

    Raises:
        ValueError, FileNotFoundError, ImportError: what the recipe asks for cannot be had; a
            pattern that fits no parameter; nothing is trained.
    """
    module = importlib.import_module(f"{__name__}.{recipe.system}")
    options = from_mapping(module.Options, recipe.options, "options")
    torch.manual_seed(recipe.seed)
    task: Task = module.build_task(recipe, options)
    _narrow(task, recipe.train, recipe.freeze)
    return task


def _narrow(task: Task, train: Sequence[str], freeze: Sequence[str]) -> None:
    """Freeze what ``train`` does not name, and what ``freeze`` does."""
    named = task.parameters()
    require_fit("train", train, named)
    require_fit("freeze", freeze, named)
    for name, parameter in named.items():
        if not fits(name, train) or fits(name, freeze):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise ValueError("train, freeze: nothing is left to train")
