"""Dataclasses from mappings, as YAML files and command lines give them: typed, and told clearly."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

__all__ = ["from_mapping", "to_mapping", "unknown_key", "with_overrides"]

T = TypeVar("T")


def from_mapping(cls: type[T], values: Any, where: str = "") -> T:
    """Fill a dataclass from a mapping.

    A value is taken if it has the field's type, is an integer or a decimal string for a float
    (YAML reads ``1e-5`` as text), or a list for a tuple; nothing else is converted. Floats must be
    finite.

    Args:
        cls: a dataclass whose fields are bool, int, float, str, Path, a Literal, a dataclass, or a
            tuple, a mapping by str or an optional one of those.
        values: the mapping; keys that are left out keep the field's default.
        where: what goes before a key in messages.

    Raises:
        ValueError: an unknown key (the message names the nearest known one), a missing key without
            default, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or cls.__name__}: expected keys and values, got {values!r}")
    hints = typing.get_type_hints(cls)
    known = {item.name: item for item in dataclasses.fields(typing.cast(Any, cls))}
    filled = {}
    for key, value in values.items():
        if key not in known:
            raise unknown_key(_inside(where, key), (_inside(where, name) for name in known))
        filled[key] = _typed(hints[key], value, _inside(where, key))
    for name, item in known.items():
        default = (item.default, item.default_factory)
        if name not in filled and default == (dataclasses.MISSING, dataclasses.MISSING):
            raise ValueError(f"{_inside(where, name)}: is missing")
    return cls(**filled)


def to_mapping(value: Any) -> Any:
    """The inverse: what JSON and YAML can hold, with every key."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_mapping(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_mapping(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def with_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings with values at dotted keys.

    ``data.0.path`` is in a list; the index behind its last item appends one.

    Raises:
        ValueError: a key that leads through something else than a mapping or a list.
    """
    result: dict[str, Any] = _copied(values)
    for key, value in overrides.items():
        path = key.split(".")
        place: Any = result
        for name, following in pairwise(path):
            inner = _item(place, name, key)
            if inner is None:  # an optional part that is switched on by a key inside
                inner = [] if following.isdecimal() else {}
                _put(place, name, inner, key)
            place = inner
        _put(place, path[-1], value, key)
    return result


def unknown_key(key: str, known: Iterable[str]) -> ValueError:
    """The error for a key that nobody knows."""
    nearest = difflib.get_close_matches(key, list(known), n=1, cutoff=0)
    return ValueError(
        f"{key}: unknown key" + (f"; the nearest known is {nearest[0]}" if nearest else "")
    )


def _inside(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _typed(hint: Any, value: Any, where: str) -> Any:
    """The value as a field of that type holds it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [option for option in arguments if option is not type(None)]
        return _first_that_fits(options, value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise _wrong(where, "one of " + ", ".join(map(str, arguments)), value)
    if origin is tuple:
        return _typed_tuple(arguments, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, "keys and values", value)
        return {key: _typed(arguments[1], item, _inside(where, key)) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(Any, hint), value, where)
    return value if hint is Any else _typed_scalar(hint, value, where)


def _first_that_fits(options: Sequence[Any], value: Any, where: str) -> Any:
    for option in options[:-1]:
        try:
            return _typed(option, value, where)
        except ValueError:
            continue
    return _typed(options[-1], value, where)


def _typed_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(where, "a list", value)
    if arguments[-1] is Ellipsis:
        arguments = arguments[:1] * len(value)
    if len(value) != len(arguments):
        raise _wrong(where, f"a list of {len(arguments)}", value)
    pairs = zip(arguments, value, strict=True)
    return tuple(_typed(hint, item, f"{where}[{k}]") for k, (hint, item) in enumerate(pairs))


def _typed_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and not isinstance(value, bool) and isinstance(value, (int, float, str)):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise _wrong(where, "a number", value) from None
        if not math.isfinite(number):
            raise _wrong(where, "a finite number", value)
        return number
    if hint is Path and isinstance(value, str):
        return Path(value)
    # A bool is an int for isinstance, and a mistake here.
    if isinstance(value, hint) and (hint is not int or not isinstance(value, bool)):
        return value
    named = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "text"}
    raise _wrong(where, named.get(hint, str(hint)), value)


def _wrong(where: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{where}: expected {expected}, got {value!r}")


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, (list, tuple)) else value


def _item(place: Any, name: str, key: str) -> Any:
    if isinstance(place, dict):
        return place.get(name)
    index = _index(place, name, key)
    return place[index] if index < len(place) else None


def _put(place: Any, name: str, value: Any, key: str) -> None:
    if isinstance(place, dict):
        place[name] = value
    else:
        index = _index(place, name, key)
        place[index : index + 1] = [value]


def _index(place: Any, name: str, key: str) -> int:
    if not isinstance(place, list):
        raise ValueError(f"{key}: there is nothing below {key.rpartition('.')[0]}, got {place!r}")
    if not name.isdecimal() or int(name) > len(place):
        raise ValueError(f"{key}: expected an index up to {len(place)}, got {name!r}")
    return int(name)
