"""A judge that only repeats what is on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastregion.evaluation.judges.chat import Answer, Messages, Unanswered

__all__ = ["Recorded"]


class Recorded:
    """Answers nothing: all that it could say stands in the file of answers already.

    Args:
        name: of the judge whose answers these are.
    """

    concurrency = 1

    def __init__(self, name: str) -> None:
        self.name = name

    def ask(self, messages: Messages, options: Mapping[str, Any]) -> Answer:
        """See :meth:`..chat.Chat.ask`."""
        raise Unanswered(f"the record of {self.name} has no answer to this message")

    def close(self) -> None:
        """Nothing is held."""
