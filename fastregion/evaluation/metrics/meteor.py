"""METEOR: version 1.5 in Java (Denkowski & Lavie, 2014), and NLTK's, which is another metric.

NLTK's has exact, stem and synonym stages of equal weight, alpha 0.9, beta 3 and gamma 0.5, and
gives much higher values: numbers of the two must not stand in one column.
"""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import SimpleNamespace, TracebackType
from typing import Any

from fastregion.evaluation.metrics.common import MetricResult, MetricUnavailable, check_captions
from fastregion.evaluation.metrics.java import find_jar, find_java
from fastregion.evaluation.metrics.rouge import stemmer

__all__ = ["Meteor", "meteor", "meteor_nltk"]

_SYNONYMS_OFF = "METEOR of NLTK without synonyms: WordNet is not among NLTK's data"


class Meteor:
    """METEOR 1.5 as a process that is asked line by line; close it, or use it in a ``with``."""

    def __init__(self, timeout: float = 600.0) -> None:
        """Start Java.

        Args:
            timeout: seconds to wait for one answer; the first takes ten or more, for the
                tables, and minutes where the machine is busy.

        Raises:
            MetricUnavailable: Java or the jar is missing.
        """
        jar = find_jar("METEOR 1.5", "meteor/meteor-1.5.jar")
        java = find_java("METEOR 1.5")
        self._timeout = timeout
        self._process = subprocess.Popen(
            [java, "-Xmx2G", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"],
            cwd=jar.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __call__(
        self, candidates: Sequence[str], references: Sequence[Sequence[str]]
    ) -> MetricResult:
        """Score tokenised captions.

        Returns:
            Values in 0..1. An item has its best reference; the corpus has the formula on the summed
            statistics, not the mean.

        Raises:
            TimeoutError: Java does not answer.
            MetricUnavailable: Java has ended, or says what is no number.
            ValueError: no candidates, an item without a reference, or other numbers of them.
        """
        check_captions(candidates, references)
        statistics = []
        for candidate, texts in zip(candidates, references, strict=True):
            hypothesis = candidate.replace("|||", "").replace("  ", " ")
            self._write(" ||| ".join(["SCORE", *texts, hypothesis]))
            statistics.append(self._answer())
        self._write(" ||| ".join(["EVAL", *statistics]))
        try:
            items = tuple(float(self._answer()) for _ in candidates)
            return MetricResult(corpus=float(self._answer()), items=items)
        except ValueError as error:
            raise MetricUnavailable(f"METEOR 1.5: unexpected answer ({error})") from error

    def close(self) -> None:
        """End Java."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self) -> Meteor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(" ".join(line.splitlines()) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise MetricUnavailable("METEOR 1.5: Java has ended") from error

    def _read(self) -> None:
        """Pass on what Java says; an empty text is the end."""
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _answer(self) -> str:
        try:
            line = self._lines.get(timeout=self._timeout)
        except queue.Empty:
            raise TimeoutError(f"METEOR 1.5: no answer within {self._timeout:g} seconds") from None
        if not line:
            raise MetricUnavailable("METEOR 1.5: Java has ended")
        return line.strip()


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> MetricResult:
    """METEOR 1.5 of tokenised captions; for several corpora, keep one :class:`Meteor`.

    Raises:
        MetricUnavailable, TimeoutError, ValueError: as for :class:`Meteor`.
    """
    with Meteor() as scorer:
        return scorer(candidates, references)


class _NoSynonyms:
    """Stands for WordNet where it is missing."""

    def synsets(self, word: str) -> list[Any]:
        return []


@cache
def _wordnet() -> Any:
    """NLTK's WordNet, or None where its data are missing."""
    wordnet = import_module("nltk.corpus").wordnet
    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    return wordnet


def meteor_nltk(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, synonyms: bool = True
) -> MetricResult:
    """NLTK's METEOR of tokenised captions; the best reference counts, the corpus has the mean.

    Args:
        candidates: tokens are what white space separates.
        references: for each candidate, at least one.
        synonyms: whether words of one meaning match, where WordNet is among NLTK's data; where it
            is not, the result's notes say so.

    Raises:
        MetricUnavailable: without the package nltk.
        ValueError: no candidates, an item without a reference, or other numbers of them.
    """
    check_captions(candidates, references)
    try:
        meteor_score = import_module("nltk.translate.meteor_score").meteor_score
    except ImportError as error:
        raise MetricUnavailable(
            'METEOR of NLTK needs nltk: pip install "fastregion[eval]"'
        ) from error
    wordnet, porter = _wordnet() if synonyms else None, SimpleNamespace(stem=stemmer())
    items = tuple(
        float(
            meteor_score(
                [text.split() for text in texts],
                candidate.split(),
                stemmer=porter,
                wordnet=_NoSynonyms() if wordnet is None else wordnet,
            )
        )
        for candidate, texts in zip(candidates, references, strict=True)
    )
    notes = () if wordnet is not None or not synonyms else (_SYNONYMS_OFF,)
    return MetricResult(corpus=sum(items) / len(items), items=items, notes=notes)
