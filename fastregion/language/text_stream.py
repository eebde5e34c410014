"""Text from tokens as they come: whole characters only, and cut at stop strings."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from fastregion.language.tokenizer import Detokenizer, Tokenizer

__all__ = ["StopStrings", "TextStream", "check_stop"]


def check_stop(stop: str | Sequence[str]) -> tuple[str, ...]:
    """One or several stop strings as a tuple.

    Raises:
        TypeError: neither a string nor a sequence of strings.
        ValueError: an empty string.
    """
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, Sequence) or not all(isinstance(text, str) for text in strings):
        raise TypeError(f"stop: expected a string or a list of strings, got {stop!r}")
    if not all(strings):
        raise ValueError("stop: a stop string must not be empty")
    return tuple(strings)


class StopStrings:
    """Passes a text on, piece by piece, up to the first stop string.

    The first stop string is the one that is complete first, and of several that are complete at
    the same character the longest. What comes out does not depend on how the text was cut into
    pieces. Text that may yet turn out to begin a stop string is held back.

    Args:
        stop: the strings; none of them empty.

    Attributes:
        found: whether a stop string was found; nothing comes out any more.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.found = False
        self._stop = tuple(stop)
        self._held = ""  # a proper beginning of a stop string, or nothing

    def put(self, text: str) -> str:
        """What is certain to stand before any stop string, now that ``text`` has come."""
        if self.found or not self._stop:
            return "" if self.found else text
        text = self._held + text
        # What was held back before is the longest that a stop string can reach back into.
        spans = [
            (start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0
        ]
        if spans:
            self.found = True
            self._held = ""
            return text[: min(spans)[1]]
        size = len(text) - self._begun(text)
        self._held = text[size:]
        return text[:size]

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _begun(self, text: str) -> int:
        """Length of the longest end of the text with which a stop string begins."""
        longest = max(len(stop) for stop in self._stop) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                return size
        return 0


class TextStream:
    """The text of one sequence of tokens, in pieces, up to the first stop string.

    The pieces join to the decoded text of all tokens, or to what of it stands before the first stop
    string; see :class:`Detokenizer` and :class:`StopStrings`.

    Args:
        tokenizer: gives the text of tokens; special ones are left out.
        stop: stop strings, as :func:`check_stop` returns them.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._strings = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._strings.found

    def put(self, token_id: int) -> str:
        """Text that has become certain with this token; may be empty."""
        return self._strings.put(self._detokenizer.put(token_id))

    def flush(self) -> str:
        """Text still held back, at the end of the tokens."""
        return self._strings.put(self._detokenizer.flush()) + self._strings.flush()

    def fork(self) -> TextStream:
        """A stream that goes its own way from here."""
        other = copy.copy(self)
        other._detokenizer = self._detokenizer.fork()
        other._strings = copy.copy(self._strings)
        return other
