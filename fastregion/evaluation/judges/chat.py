"""What answers messages: a judge, or a general vision-language model that is shown regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Answer", "Chat", "Messages", "Unanswered"]

Messages = Sequence[Mapping[str, Any]]
"""As in the OpenAI chat-completions API; pictures as data URLs."""


class Unanswered(RuntimeError):
    """There is no answer and asking again now is no use; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back.

    Attributes:
        text: the answer.
        usage: ``prompt_tokens`` and ``completion_tokens``, where they were told.
    """

    text: str
    usage: Mapping[str, int] = field(default_factory=dict)


class Chat(Protocol):
    """Answers messages.

    Attributes:
        name: of the model; part of what tells answers apart on disk.
        concurrency: how many messages it may be asked at a time.
    """

    name: str
    concurrency: int

    def ask(self, messages: Messages, options: Mapping[str, Any]) -> Answer:
        """Answer; options are those of a chat-completions request, such as ``max_tokens``.

        Raises:
            Unanswered: see there.
        """
        ...

    def close(self) -> None:
        """Give back what it holds; requests under way end."""
        ...
