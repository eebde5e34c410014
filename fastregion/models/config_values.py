"""Checks of the values in a ``config.json``: every message begins with its name and the key's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from fastregion.language.build_decoder import WITHOUT_EFFECT

__all__ = ["check_int", "check_keys", "required", "wrong"]

# Beside what build_decoder knows: what shapes other parts than a decoder, and not the model.
_WITHOUT_EFFECT = WITHOUT_EFFECT | {
    "initializer_range",
    "tie_word_embeddings",
    "do_pooling",
    "global_pool",
    "label_names",
    "num_classes",
    "pretrained_cfg",
}


def check_keys(where: str, values: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise for a key that is neither known nor without effect; ``where`` goes before its name."""
    known = list(known)
    for key in values:
        if key not in known and key not in _WITHOUT_EFFECT and not key.startswith("_"):
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            raise ValueError(
                f"config.json: unknown key {where + key!r}; the nearest known is {nearest!r}"
            )


def required(where: str, values: Mapping[str, Any], key: str) -> Any:
    """The value of a key; null counts as missing."""
    if values.get(key) is None:
        raise ValueError(f"config.json: {where + key!r} is missing")
    return values[key]


def check_int(name: str, value: Any, at_least: int) -> None:
    """Raise unless a value is an integer of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise wrong(name, f"an integer of at least {at_least}", value)


def wrong(name: str, expected: str, got: Any) -> ValueError:
    """The error for a value that does not fit."""
    return ValueError(f"config.json: {name} must be {expected}, got {got!r}")
