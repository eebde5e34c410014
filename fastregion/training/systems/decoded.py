"""A training sample as text, for people to see what is learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from fastregion.language import IGNORED_LABEL, Tokenizer

__all__ = ["decoded_text"]

_MANY = 4  # tokens of one kind in a row are counted from here on


def decoded_text(input_ids: Sequence[int], labels: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of token ids, what is learned between ``[[`` and ``]]``.

    Of a token that comes many times in a row, such as the places of a picture, the number is told:
    ``<IMG_CONTEXT>*256``.

    Args:
        input_ids: of one prompt.
        labels: ids that are learned, -100 elsewhere.
        tokenizer: theirs.
    """
    pairs = zip(input_ids, labels, strict=True)
    pieces = []
    for learned, group in groupby(pairs, key=lambda pair: pair[1] != IGNORED_LABEL):
        text = _counted((token for token, _ in group), tokenizer)
        pieces.append(f"[[{text}]]" if learned else text)
    return "".join(pieces)


def _counted(ids: Iterable[int], tokenizer: Tokenizer) -> str:
    text, waiting = "", []
    for token, group in groupby(ids):
        count = len(list(group))
        if count < _MANY:
            waiting += [token] * count
            continue
        text += tokenizer.decode(waiting, skip_special_tokens=False)
        text += f"{tokenizer.decode([token], skip_special_tokens=False)}*{count}"
        waiting = []
    return text + tokenizer.decode(waiting, skip_special_tokens=False)
