"""Which of several choices an answer means, as DLC-Bench decides it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LABELS", "lettered", "parse_choice"]

LABELS = "ABCDE"


def lettered(choices: Sequence[str]) -> str:
    """The choices as lines ``A. ...``.

    Raises:
        ValueError: more than there are letters.
    """
    if len(choices) > len(LABELS):
        raise ValueError(f"choices: expected at most {len(LABELS)}, got {len(choices)}")
    return "\n".join(f"{label}. {text}" for label, text in zip(LABELS, choices, strict=False))


def parse_choice(answer: str, choices: Sequence[str]) -> int | None:
    """Find the choice that an answer means, in the order of the published parser.

    The published parser raises IndexError for an empty answer and for a lone letter that is no
    choice's; here these mean nothing.

    Args:
        answer: what the judge said.
        choices: at most five texts.

    Returns:
        Index of the choice; where a label at the beginning decides, that label's, also if there
        are fewer choices; None if the answer means none.
    """
    said = answer.strip().lower()
    texts = [choice.strip().lower() for choice in choices]
    labels = LABELS.lower()
    found: list[tuple[int, int, int]] = []  # place in the answer, length, index
    for index, (label, text) in enumerate(zip(labels, texts, strict=False)):
        if said in (text, f"{label}. {text}", label):
            return index
        if text in said:
            found.append((said.find(text), len(text), index))
    if len(found) == 1:
        return found[0][2]
    first = labels.find(said[0]) if said else -1
    if first >= 0 and said[1:2] == ".":
        return first
    if not said or (first >= 0 and len(said) == 1):  # where the published parser raises
        return None
    if found:  # the rightmost; of those at one place the longest, and of these the first
        return max(found, key=lambda place: place[:2])[2]
    around = [(len(text), -index) for index, text in enumerate(texts) if said in text]
    if around:
        return -max(around)[1]
    return first if first >= 0 and said[1] == "\n" else None
