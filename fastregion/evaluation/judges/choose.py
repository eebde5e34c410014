"""From what a user types to something that answers messages."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from fastregion.evaluation.judges.chat import Chat
from fastregion.evaluation.judges.recorded import Recorded

__all__ = ["LOCAL", "api_key", "local_chat", "recorded_judge"]

LOCAL = "local:"
"""What the name of a folder begins with."""
_OPENAI = "api.openai.com"


def api_key(base_url: str, variable: str) -> str | None:
    """The key for an endpoint: of its own variable; ``OPENAI_API_KEY`` goes to OpenAI alone.

    Args:
        base_url: of the endpoint.
        variable: name of the environment variable that holds its key.
    """
    names = [variable]
    if urlsplit(base_url).hostname == _OPENAI:
        names.append("OPENAI_API_KEY")
    keys = (os.environ.get(name, "").strip() for name in names)  # files of secrets end in a newline
    return next((key for key in keys if key), None)


def local_chat(name: str) -> Chat:
    """A model folder, from ``local:FOLDER``.

    Raises:
        FileNotFoundError, ValueError: as for ``LocalModel``.
    """
    from fastregion.evaluation.judges.local import LocalModel  # transformers takes seconds

    return LocalModel(Path(name.removeprefix(LOCAL)))


def recorded_judge(answers: Path, name: str | None) -> Chat:
    """The judge whose answers a file holds.

    Args:
        answers: the file of answers.
        name: of the judge, where the file holds answers of several.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no answers, or those of several judges and ``name`` is none of them.
    """
    if not answers.is_file():
        raise FileNotFoundError(f"judge: no answers are recorded in {str(answers)!r}: no such file")
    names = set()
    with answers.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                names.add(str(json.loads(line)["judge"]))
            except (ValueError, KeyError, TypeError):  # the header, or a torn line
                continue
    if name is None and len(names) == 1:
        return Recorded(names.pop())
    if name is None or name not in names:
        raise ValueError(
            f"judge_model: expected one of {', '.join(sorted(names)) or 'none'}, whose answers "
            f"{str(answers)!r} holds, got {name!r}"
        )
    return Recorded(name)
