"""What a user asks for, checked: names of classes, thresholds and beams."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from fastregion.models.categories import Category
from fastregion.models.pix2cap.config import NO_OBJECT, InferenceConfig
from fastregion.models.pix2cap.text_encoder import class_words
from fastregion.models.request import check_int

__all__ = ["check_beams", "named_categories", "with_thresholds"]


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
        if not class_words(name).strip() or name == NO_OBJECT or name in classes[:index]:
            raise ValueError(
                f"classes: must be different words and not {NO_OBJECT!r}, got {name!r} at {index}"
            )
    if isinstance(stuff, str) or not isinstance(stuff, Collection):
        raise TypeError(f"stuff: expected some of classes, got {type(stuff).__name__}")
    for name in stuff:
        if name not in classes:
            raise ValueError(f"stuff: must be among classes, got {name!r}")
    return [Category(index + 1, name, name not in stuff) for index, name in enumerate(classes)]


def with_thresholds(
    inference: InferenceConfig, mask_threshold: float | None, overlap_threshold: float | None
) -> InferenceConfig:
    """The settings with a user's thresholds, where they are given.

    Raises:
        TypeError, ValueError: no numbers in 0..1; the message begins with the argument's name.
    """
    given = {"mask_threshold": mask_threshold, "overlap_threshold": overlap_threshold}
    for name, value in given.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: must be in 0..1, got {value}")
    if mask_threshold is not None:
        inference = replace(inference, object_mask_threshold=mask_threshold)
    if overlap_threshold is not None:
        inference = replace(inference, overlap_threshold=overlap_threshold)
    return inference


def check_beams(num_beams: int, num_tokens: int) -> None:
    """Raise unless a caption can begin with so many different ones of the tokens."""
    check_int("num_beams", num_beams, at_least=1)
    if num_beams > num_tokens:
        raise ValueError(
            f"num_beams: must be at most the {num_tokens} tokens that may come first, "
            f"got {num_beams}"
        )
