"""The text of an answer in pieces."""

from __future__ import annotations

__all__ = ["StrippedText"]


class StrippedText:
    """A text in pieces, which join to the whole text without outer white space."""

    def __init__(self) -> None:
        self._begun = False
        self._space = ""  # white space that is only shown if text follows

    def put(self, text: str) -> str:
        """What may be shown, now that ``text`` has come; may be empty."""
        text = self._space + text if self._begun else text.lstrip()
        piece = text.rstrip()
        self._space = text[len(piece) :]
        self._begun = self._begun or bool(piece)
        return piece
