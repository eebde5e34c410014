"""A benchmark with its settings, from words such as ``lookalikes=8``."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastregion.evaluation.benchmarks.base import Benchmark
from fastregion.evaluation.benchmarks.registry import find_benchmark

__all__ = ["make_benchmark", "settings_of"]

_CLASS = typing.ClassVar
_BOOLS = {"true": True, "false": False}


def make_benchmark(name: str, settings: Sequence[str] = ()) -> Benchmark:
    """Make a benchmark.

    Args:
        name: as in the registry.
        settings: ``name=value`` each; ``none`` is the value None.

    Raises:
        ValueError: no such benchmark or setting, or a value of another kind; and whatever the
            benchmark refuses.
    """
    found = find_benchmark(name)
    known = settings_of(found)
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in known:
            raise ValueError(
                f"set: {name} has the settings {', '.join(known) or 'none'}; expected name=value, "
                f"got {setting!r}"
            )
        values[key] = _value(key, text, known[key])
    return found(**values)


def settings_of(benchmark: type[Benchmark]) -> dict[str, Any]:
    """The settings of a kind of benchmark, with their types; none where it is no dataclass."""
    hints = typing.get_type_hints(benchmark)
    fields: Mapping[str, dataclasses.Field[Any]] = getattr(benchmark, "__dataclass_fields__", {})
    # class attributes are listed too
    return {name: hints[name] for name in fields if typing.get_origin(hints[name]) is not _CLASS}


def _value(name: str, text: str, kind: Any) -> Any:
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if types.NoneType in kinds and text.lower() == "none":
        return None
    (plain,) = [one for one in kinds if one is not types.NoneType]
    try:
        if plain is bool:
            return _BOOLS[text.lower()]
        if typing.get_origin(plain) is typing.Literal:
            return {str(choice): choice for choice in typing.get_args(plain)}[text]
        if plain in (int, float, str, Path):
            return plain(text)
    except (ValueError, KeyError):
        expected = getattr(plain, "__name__", str(plain))
        raise ValueError(f"set: {name}: expected {expected}, got {text!r}") from None
    raise ValueError(f"set: {name} cannot be set from text")
