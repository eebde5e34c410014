"""CLAIR (Chan et al., 2023): a language model says whether captions may be of one image.

The wording of the message is ours unless a template is given; ``{candidates}`` and ``{references}``
stand for lists with one line ``- text`` a caption.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["TEMPLATE", "ClairScore", "clair", "clair_message", "read_clair_answer"]

TEMPLATE = """Below are two sets of captions.

Set A:
{candidates}

Set B:
{references}

How likely is it, from 0 to 100, that both sets describe the same image? Answer with a JSON object \
that has the keys "score" and "reason" and nothing else.
"""
_NO_REASON = "Unknown"
_NUMBER = re.compile(r"\d*\.?\d+")


@dataclass(frozen=True, kw_only=True)
class ClairScore:
    """What a judge said of one item.

    Attributes:
        score: in 0..1 (a judge that leaves its scale may say more); 0 if nothing could be read.
        reason: the judge's words, or "Unknown"; None where no answer could be read.
        readable: whether a score was read.
    """

    score: float
    reason: str | None
    readable: bool = True


def clair_message(
    candidates: Sequence[str], references: Sequence[str], template: str = TEMPLATE
) -> str:
    """The message to the judge.

    Raises:
        TypeError: a bare string, of which each character would become a caption.
    """
    for name, texts in (("candidates", candidates), ("references", references)):
        if isinstance(texts, str):
            raise TypeError(f"{name}: expected a list of captions, got a string")
    lists = {"{candidates}": _bullets(candidates), "{references}": _bullets(references)}
    # at once: a caption may hold what stands for the other list
    return re.sub("|".join(map(re.escape, lists)), lambda found: lists[found[0]], template)


def _bullets(texts: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def read_clair_answer(answer: str) -> ClairScore | None:
    """Read an answer as the published code does; None if it has no number.

    JSON from the first ``{`` to the next ``}``; failing that, the first number anywhere, which is
    taken as a share if it is below 1. A share in JSON is not: 0.8 there is 0.8 of 100.
    """
    try:
        content = json.loads("{" + answer.split("{")[1].split("}")[0] + "}")
        score = float(content["score"]) / 100
        if math.isfinite(score):  # "NaN" is a number to JSON's reader
            return ClairScore(score=score, reason=content.get("reason", _NO_REASON))
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    number = _NUMBER.search(answer)
    if number is None:
        return None
    score = float(number[0])
    return ClairScore(score=(score * 100 if score < 1 else score) / 100, reason=_reason(answer))


def _reason(answer: str) -> str:
    """What stands behind the word "reason", to the end of the line."""
    found = re.search("(?i:reason)(.*)", answer)
    return found[1].replace(":", "").strip() if found else _NO_REASON


def clair(
    candidates: Sequence[str],
    references: Sequence[str],
    judge: Callable[[str], str],
    *,
    template: str = TEMPLATE,
    attempts: int = 3,
) -> ClairScore:
    """Ask until an answer can be read.

    Args:
        candidates: captions of one item.
        references: likewise.
        judge: text to text.
        template: of the message.
        attempts: how often to ask at most.
    """
    message = clair_message(candidates, references, template)
    for _ in range(attempts):
        if (score := read_clair_answer(judge(message))) is not None:
            return score
    return ClairScore(score=0.0, reason=None, readable=False)
