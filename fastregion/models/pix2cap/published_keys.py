"""The published settings of Pix2Cap as a tree of keys: which count, and how they are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from fastregion.models.config_values import check_int, check_keys, required, wrong

__all__ = ["FIXED", "check_number", "inside", "read_section", "read_values", "section", "tuple_of"]

# Keys of which only one value is computed here, by section.
FIXED: dict[str, dict[str, Any]] = {
    "focal": {
        "PATCH_NORM": True,
        "USE_CONV_EMBED": True,
        "SCALING_MODULATOR": True,
        "USE_POSTLN": True,
        "USE_POSTLN_IN_MODULATION": False,
        "USE_LAYERSCALE": True,
        "DROP_RATE": 0.0,
        "OUT_INDICES": [0, 1, 2, 3],
    },
    "encoder": {"NAME": "transformer_encoder_fpn", "NORM": "GN", "COMMON_STRIDE": 4},
    "decoder": {
        "TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
        "DROPOUT": 0.0,
        "PRE_NORM": False,
        "ENFORCE_INPUT_PROJ": False,
        "SIZE_DIVISIBILITY": 32,
    },
    "text": {"TOKENIZER": "clip", "AUTOGRESSIVE": True},
    "text_decoder": {"MASK_FUTURE_POSITIONS": True, "PADDING_IDX": 0, "DECODER_TYPE": "bert_en"},
}
# Published keys that have no effect on the network, or none at all, by section.
WITHOUT_EFFECT = {
    "focal": "PRETRAIN_IMG_SIZE OUT_FEATURES USE_CHECKPOINT",
    "encoder": "IGNORE_VALUE NUM_CLASSES LOSS_WEIGHT IN_FEATURES BINARY_CLASSES DEFORMABLE_"
    "TRANSFORMER_ENCODER_IN_FEATURES DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS "
    "DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS TOTAL_NUM_FEATURE_LEVELS NUM_FEATURE_LEVELS "
    "FEATURE_ORDER",
    "decoder": "NAME MASK FROZEX DETECTION DENSECAPTION DEEP_SUPERVISION BBOX_WEIGHT GIOU_WEIGHT "
    "TEST BACKBONER_WEIGHT CAPTION_WEIGHT CAPTIONING_WEIGHT RETRIEVAL_WEIGHT COST_SPATIAL COSINE "
    "CAPTION CAPTIONING RETRIEVAL GROUNDING SPATIAL OPENIMAGE TOP_MASK_LAYERS TOP_CAPTION_LAYERS "
    "TOP_CAPTIONING_LAYERS TOP_RETRIEVAL_LAYERS TOP_GROUNDING_LAYERS TOP_DETECTION_LAYERS "
    "GCLASS_WEIGHT GMASK_WEIGHT GDICE_WEIGHT OCLASS_WEIGHT OMASK_WEIGHT ODICE_WEIGHT "
    "GROUNDING_WEIGHT DECODER_WEIGHT IGNORE_VALUE",
    "text": "ARCH NAME",
    "text_decoder": "USE_ACT_CHECKPOINT MAX_STEPS",
}


def inside(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The object at a path, made where there is none."""
    for key in path:
        values = values.setdefault(key, {})
    return values


def section(values: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    """The object at a path, which must be there."""
    where = ""
    for key in path:
        values = required(where, values, key)
        where += f"{key}."
        if not isinstance(values, Mapping):
            raise wrong(where.rstrip("."), "an object", values)
    return values


def read_section(
    name: str, path: tuple[str, ...], kind: type[Any], given: Mapping[str, Any]
) -> Any:
    """The section called ``name`` as a dataclass; what is not given has the default."""
    where = ".".join(path) + "."
    defaults = {one.name: getattr(kind(), one.name) for one in fields(kind)}
    fixed = FIXED[name]
    known = [*(key.upper() for key in defaults), *fixed, *WITHOUT_EFFECT[name].split()]
    check_keys(where, given, known)
    for key, supported in fixed.items():
        value = given.get(key, supported)
        if value != supported:
            raise NotImplementedError(
                f"config.json: {where}{key} must be {supported!r}, got {value!r}"
            )
    read: dict[str, Any] = {}
    for key, default in defaults.items():
        value = given.get(key.upper(), default)
        full = where + key.upper()
        if isinstance(default, tuple):
            value = tuple_of(full, value)
            for number in value:
                check_int(full, number, 1)
        elif isinstance(default, int):
            check_int(full, value, 1)
        else:
            check_number(full, value)
        read[key] = value
    try:
        return kind(**read)
    except ValueError as error:
        raise ValueError(f"config.json: {where}{error}") from error


def read_values(
    values: Mapping[str, Any], path: tuple[str, ...], names: Iterable[str]
) -> dict[str, Any]:
    """Those of some keys at a path that are given, by field; the path may be missing."""
    found: Any = values
    for key in path:
        found = found.get(key, {}) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise wrong(".".join(path), "an object", found)
    return {name: found[name.upper()] for name in names if name.upper() in found}


def check_number(name: str, value: Any, highest: float = math.inf) -> None:
    """Raise unless a value is a number from 0 on."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= highest:
        limits = "a number of at least 0" if highest == math.inf else f"a number in 0..{highest:g}"
        raise wrong(name, limits, value)


def tuple_of(name: str, value: Any) -> tuple[Any, ...]:
    """The values of a list."""
    if not isinstance(value, (list, tuple)):
        raise wrong(name, "a list", value)
    return tuple(value)
