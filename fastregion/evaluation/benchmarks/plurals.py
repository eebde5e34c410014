"""Plural class names and indefinite articles (inflect, of the extra ``eval``)."""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["indefinite", "is_plural"]

_SINGULAR = ("bus",)  # which inflect takes for a plural


def is_plural(name: str) -> bool:
    """Whether it names several things, as the published evaluation of DLC-Bench decides it.

    Releases of inflect differ: 5.6 takes "wine glass" for several, as in the published records, and
    7.6 for one.

    Raises:
        ModuleNotFoundError: inflect is not installed.
    """
    return name not in _SINGULAR and _engine().singular_noun(name) is not False


def indefinite(name: str) -> str:
    """The name with "a" or "an" in front.

    Raises:
        ModuleNotFoundError: inflect is not installed.
    """
    return str(_engine().a(name))


@cache
def _engine() -> Any:
    try:
        import inflect
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'judge: articles and plurals need inflect: pip install "fastregion[eval]"'
        ) from error
    return inflect.engine()
