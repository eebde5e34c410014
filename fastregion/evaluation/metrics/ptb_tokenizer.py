"""Penn Treebank tokens of captions, as all numbers of COCO caption evaluation are made of.

Equal to CoreNLP 3.4.1's PTBTokenizer with ``-preserveLines -lowerCase`` and the punctuation that
pycocoevalcap drops from its output, without Java. Brackets stay (as ``-lrb-`` and so on): the
published list names them in capitals, and they arrive in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from fastregion.evaluation.metrics.ptb_rules import (
    BEFORE_NUMBERS,
    PLAIN_WORD,
    WIDE_ONLY,
    lex,
)

__all__ = ["tokenize"]

_PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_LINE_BREAK = re.compile("[\n\r\v\f\u2028\u2029]")
# What such a place has; it is found much faster than the place itself, and most lines have none.
_MAY_SPAN = re.compile(r"[<\t\xa0\u2000-\u200a\u30000-9).](?:(?<![0-9).])|(?=.))")
# Where a token may reach over a space, or depend on what stands behind one.
_SPANNING = re.compile(
    r"[<\t\xa0\u2000-\u200a\u3000]|[0-9)] +[0-9+(]|\. +\.|(?<![A-Za-z])[A-Za-z]\. +[A-Z]"
    rf"|{BEFORE_NUMBERS}\. *[0-9]"
)
# A last period that depends on the next caption.
_OPEN_END = re.compile(rf"(?:^|[^A-Za-z])[A-Za-z]\.$|{BEFORE_NUMBERS}\.$")


def tokenize(captions: Sequence[str]) -> list[str]:
    """Tokenise captions, as lines of one file.

    As in the original, the first word of the next caption can decide whether a period belongs to a
    last word that is a single letter or an abbreviation of a number ("in box A.", "seat no.").
    Line breaks inside a caption count as spaces; there, the original would shift all that follow.

    Args:
        captions: texts.

    Returns:
        For each caption its tokens, joined by single spaces; empty where nothing but punctuation
        is left.
    """
    lines = [_LINE_BREAK.sub(" ", caption) for caption in captions]
    return list(map(_tokenize_line, lines, _following(lines)))


def _following(lines: Sequence[str]) -> list[str]:
    """What stands behind the end of each line: the next one, and its end if it is not the last.

    Of blank lines in between one is kept: no rule counts them.
    """
    found: list[str] = []
    rest, end = "", ""
    for line in reversed(lines):
        found.append(rest)
        rest = line + end if WIDE_ONLY.fullmatch(line) is None else "\n" + rest.removeprefix("\n")
        end = "\n"
    return found[::-1]


def _tokenize_line(line: str, following: str) -> str:
    if _MAY_SPAN.search(line) and _SPANNING.search(line):
        return _join(lex(line, following))
    shown = line.rstrip(" ")
    *words, last = shown.split(" ")
    tokens = [*map(_tokenize_word, words)]
    if _OPEN_END.search(last):
        tokens.append(_join(lex(last + line[len(shown) :], following)))
    else:
        tokens.append(_tokenize_word(last))
    return " ".join(filter(None, tokens)).rstrip()


@lru_cache(maxsize=1 << 16)
def _tokenize_word(word: str) -> str:
    return word.lower() if PLAIN_WORD.fullmatch(word) else _join(lex(word))


def _join(tokens: list[str]) -> str:
    lowered = (token.lower() for token in tokens)
    # A token may end in a no-break space; the original strips lines of what Python calls space.
    return " ".join(token for token in lowered if token not in _PUNCTUATION).rstrip()
