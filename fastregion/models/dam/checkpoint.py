"""Published checkpoints of DAM: a folder for each part, and our single folder.

    config.json  llm/  vision_tower/  mm_projector/  context_provider/

Every part's folder has a ``config.json``, whose values count, and weights (see
``models/weights.py``); the tokenizer lies in ``llm/``, the preprocessor's settings in
``vision_tower/``. In our folder the weights of all parts lie in one file, under the names of the
published state dict, and ``config.json`` holds all values. Other files, such as the Python files of
the self-contained variant, are never looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fastregion.language import Tokenizer
from fastregion.models.checkpoint import CONFIG, read_config, read_json, save_folder
from fastregion.models.dam.config import PARTS, DamConfig
from fastregion.models.dam.processing import PREPROCESSOR, preprocessor_values
from fastregion.models.weights import Layout, load_weights

__all__ = ["STATE_DICT", "load_parts", "part_folder", "read_values", "save_parts"]

# The names of the published model's state dict; a part's file leaves out the part's own prefix.
STATE_DICT = Layout({"vision_tower.": "vision_tower.vision_tower.", "": ""})

_GENERATION = "generation_config.json"


def part_folder(root: Path, values: Mapping[str, Any], part: str) -> Path | None:
    """Where a part of a published checkpoint lies; None in our single folder.

    Raises:
        FileNotFoundError: a folder that should be there is not.
    """
    if "image_video_joint" in values:  # ours: the published files do not have this key
        return None
    where = values.get(f"{part}_cfg")
    if where is None:
        raise ValueError(f"config.json: '{part}_cfg' is missing")
    folder = root / part
    if not isinstance(where, Mapping):  # a path, published ones relative to wherever one is
        inside = root / str(where)
        folder = inside if inside.is_dir() else Path(str(where))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"model: {os.fspath(root)!r} has no folder {folder.name!r} for its {part}_cfg"
        )
    return folder


def read_values(root: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a ``config.json`` with those of the parts' folders in their places.

    Raises:
        FileNotFoundError: a folder or its ``config.json`` is missing.
        ValueError: a file is damaged.
    """
    found = dict(values)
    for part in PARTS:
        folder = part_folder(root, values, part)
        if folder is not None:
            found[f"{part}_cfg"] = read_config(folder)
            if part == "llm" and (folder / _GENERATION).is_file():
                end = read_json(folder, _GENERATION).get("eos_token_id")
                if end is not None:  # what generation stops at
                    found["llm_cfg"]["eos_token_id"] = end
    return found


def load_parts(model: nn.Module, root: Path, values: Mapping[str, Any]) -> None:
    """Load a published checkpoint, or our single folder.

    Args:
        model: a ``DamModel``.
        root: the folder.
        values: its ``config.json``.

    Raises:
        FileNotFoundError, ValueError: as for ``load_weights``.
    """
    if part_folder(root, values, PARTS[0]) is None:
        load_weights(model, root, STATE_DICT)
        return
    for part in PARTS:
        folder = part_folder(root, values, part)
        assert folder is not None
        load_weights(model.get_submodule(part), folder)


def save_parts(
    root: str | os.PathLike[str], *, config: DamConfig, model: nn.Module, tokenizer: Tokenizer
) -> None:
    """Write a checkpoint in the published layout.

    The vocabulary is written as ``tokenizer.json``; the published tools, which read
    ``tokenizer.model``, need a copy of that from the original checkpoint beside it.

    Args:
        root: made if it does not exist.
        config: of the model; ``adapter_formula`` and ``image_video_joint`` have no published key
            and are not written.
        model: a ``DamModel``.
        tokenizer: its tokenizer.

    Raises:
        ValueError: a model with the paper's adapters, which the published code cannot run.
    """
    if config.adapter_formula != "released":
        raise ValueError(
            "adapter_formula: must be 'released' in the published layout, "
            f"got {config.adapter_formula!r}"
        )
    values = config.to_dict()
    for key in ("adapter_formula", "image_video_joint"):
        del values[key]
    texts = {
        "llm": {
            _GENERATION: {k: v for k, v in config.llm.items() if k.endswith("_token_id")},
            "special_tokens_map.json": tokenizer.names,
        },
        "vision_tower": {PREPROCESSOR: preprocessor_values(config.vision.image_size)},
    }
    for part in PARTS:
        save_folder(
            Path(root, part),
            config=values[f"{part}_cfg"],
            model=model.get_submodule(part),
            tokenizer=tokenizer if part == "llm" else None,
            texts={
                name: json.dumps(content, indent=2) + "\n"
                for name, content in texts.get(part, {}).items()
            },
        )
    Path(root, CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
