"""Classes that a user names, and thresholds that a user gives, checked."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fastregion.models.categories import Category
from fastregion.models.pix2cap.config import NO_OBJECT

__all__ = ["check_share", "named_categories"]


def named_categories(classes: Sequence[str], stuff: Collection[str]) -> list[Category]:
    """Categories of a user's words, counted from 1.

    Args:
        classes: different words.
        stuff: which of them are stuff.

    Raises:
        TypeError, ValueError: an argument is not as described; the message begins with its name.
    """
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise TypeError(f"classes: expected a list of names, got {type(classes).__name__}")
    if not classes:
        raise ValueError("classes: expected at least one name, got none")
    for index, name in enumerate(classes):
        if not isinstance(name, str):
            raise TypeError(f"classes: expected str, got {type(name).__name__} at {index}")
        if not name.strip() or name == NO_OBJECT or name in classes[:index]:
            raise ValueError(
                f"classes: must be different words and not {NO_OBJECT!r}, got {name!r} at {index}"
            )
    for name in stuff:
        if name not in classes:
            raise ValueError(f"stuff: must be among classes, got {name!r}")
    return [Category(index + 1, name, name not in stuff) for index, name in enumerate(classes)]


def check_share(name: str, value: float) -> float:
    """The value, if it is a number in 0..1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: must be in 0..1, got {value}")
    return value
