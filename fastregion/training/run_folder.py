"""The folder of a run: whose it is, and what lies where."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastregion.training.checkpoints import read_json, write_json
from fastregion.training.recipe import Recipe
from fastregion.training.settings import to_mapping

__all__ = ["RunFolder", "require_libraries"]

# What may change between two starts of a run: it changes nothing in the weights.
_FREE = {
    "workers",
    "save_every",
    "save_minutes",
    "keep_last",
    "tensorboard",
    "fsdp",
    "gradient_checkpointing",
    "max_bad_share",
}


class RunFolder:
    """Names in the folder of a run.

    Attributes:
        path: the folder.
        checkpoints: where they are.
        model: the trained captioner.
        loss_curve: the picture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.loss_curve = path / "loss.png"
        self._recipe = path / "recipe.json"

    def claim(self, recipe: Recipe) -> None:
        """Make the folder this recipe's; a run that has saved nothing yet gives way to it.

        Raises:
            ValueError: it is another recipe's, and the message names the keys that differ; or it
                holds files of a run's names that no run of ours has written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        values = to_mapping(recipe)
        foreign = [path.name for path in (self.checkpoints, self.model) if path.exists()]
        if foreign and not self._recipe.exists():
            raise ValueError(
                f"output: {str(self.path)!r} holds {' and '.join(foreign)}, but no "
                f"{self._recipe.name} of a run that made them; give another folder"
            )
        if self._recipe.exists() and (self.checkpoints.exists() or self.model.exists()):
            before = _flat(read_json(self._recipe))
            now = _flat(values)
            keys = sorted(before.keys() | now.keys())
            different = [
                f"{key} (there {before.get(key)!r}, now {now.get(key)!r})"
                for key in keys
                if before.get(key) != now.get(key) and key not in _FREE
            ]
            if different:
                raise ValueError(
                    f"output: {str(self.path)!r} holds a run of another recipe; they differ in "
                    f"{', '.join(different)}; give another folder, or remove this one"
                )
        part = self._recipe.with_suffix(".part")
        write_json(part, values)
        os.replace(part, self._recipe)

    def is_finished(self) -> bool:
        """Whether the trained captioner is there."""
        return self.model.is_dir()

    def put_model(self, part: Path) -> None:
        """Give a whole captioner's folder its name."""
        if self.model.exists():
            shutil.rmtree(self.model)
        os.replace(part, self.model)


def require_libraries(*, tensorboard: bool) -> None:
    """Raise ImportError for a library that a run would miss at its end."""
    needed = ["accelerate", "matplotlib", *(["tensorboard"] if tensorboard else [])]
    for name in needed:
        if importlib.util.find_spec(name) is None:
            hint = "" if name != "tensorboard" else "; or set tensorboard=false"
            raise ImportError(f'training needs {name}: pip install "fastregion[train]"{hint}')


def _flat(values: Any, where: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys, and lists of mappings; other lists are values."""
    if isinstance(values, list) and values and all(isinstance(one, Mapping) for one in values):
        values = dict(enumerate(values))
    if not isinstance(values, Mapping):
        return {where: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{where}.{key}" if where else key)
    return flat
