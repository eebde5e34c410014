"""Names of parameters chosen by patterns, as in a shell."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

__all__ = ["fits", "require_fit"]


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def require_fit(argument: str, patterns: Iterable[str], names: Mapping[str, object]) -> None:
    """Raise ValueError for a pattern that no name fits."""
    for pattern in patterns:
        if not any(fits(name, [pattern]) for name in names):
            raise ValueError(
                f"{argument}: {pattern!r} fits no parameter; names are such as "
                f"{next(iter(names), 'none')!r}"
            )
