"""The text of a token stream in pieces."""

from __future__ import annotations

from fastregion.language import Detokenizer, Tokenizer

__all__ = ["Pieces"]


class Pieces:
    """The text of one region in pieces, which join to the whole text without outer white space."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._begun = False
        self._space = ""  # white space that is only shown if text follows

    def put(self, token_id: int, *, last: bool) -> str:
        """What may be shown with this token; may be empty."""
        text = self._detokenizer.put(token_id)
        if last:
            text += self._detokenizer.flush()
        text = self._space + text if self._begun else text.lstrip()
        piece = text.rstrip()
        self._space = text[len(piece) :]
        self._begun = self._begun or bool(piece)
        return piece
