"""What a judge is told: a template file in parts.

A part begins with a line ``[[name]]`` and ends before the next such line; the line break in front
of that one, and the last of the file, are no part of it (leave a line empty where a message ends in
a line break). ``{name}`` stands for a value; braces around anything else are text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

__all__ = ["Wording"]

_HEADER = re.compile(r"^\[\[(\w+)\]\]$")


class Wording:
    """The parts of a template.

    Args:
        text: of the file.
        parts: the names of the parts that there must be, with the placeholders each must have.

    Raises:
        ValueError: a part or a placeholder is missing, or there is another part.
    """

    def __init__(self, text: str, parts: Mapping[str, Collection[str]]) -> None:
        self._parts = _split(text)
        wrong = sorted(self._parts.keys() ^ parts.keys())
        if wrong:
            raise ValueError(
                f"template: expected the parts {', '.join(f'[[{name}]]' for name in parts)}, "
                f"got {', '.join(f'[[{name}]]' for name in self._parts) or 'none'}"
            )
        for name, placeholders in parts.items():
            for placeholder in placeholders:
                if f"{{{placeholder}}}" not in self._parts[name]:
                    raise ValueError(f"template: part [[{name}]] must have {{{placeholder}}}")

    def fill(self, part: str, **values: str) -> str:
        """A part with values in the places of its placeholders; values are not searched again."""
        if not values:
            return self._parts[part]
        names = "|".join(map(re.escape, values))
        return re.sub(rf"\{{({names})\}}", lambda found: values[found[1]], self._parts[part])


def _split(text: str) -> dict[str, str]:
    parts: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in text.removesuffix("\n").split("\n"):
        if header := _HEADER.match(line):
            if header[1] in parts:
                raise ValueError(f"template: part [[{header[1]}]] comes twice")
            lines = parts[header[1]] = []
        elif lines is not None:
            lines.append(line)
        elif line.strip():
            raise ValueError(f"template: expected a line like [[message]] first, got {line[:60]!r}")
    return {name: "\n".join(found) for name, found in parts.items()}
