"""Published code that the metrics are compared with, and when it is here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from fastregion.evaluation.metrics.common import MetricUnavailable
from fastregion.evaluation.metrics.java import find_jar, find_java

_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"


def _missing(name: str) -> str | None:
    try:
        find_java("this test")
        find_jar("this test", name)
    except MetricUnavailable as error:
        return str(error)
    return None


def _needs(reason: str | None) -> pytest.MarkDecorator:
    return pytest.mark.skipif(reason is not None, reason=reason or "")


needs_ptb = _needs(_missing(_JAR))
needs_meteor = _needs(_missing("meteor/meteor-1.5.jar"))
needs_pycocoevalcap = pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is None, reason="pycocoevalcap is not installed"
)

_PUNCTUATION = [
    *["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-"],
    *[".", "?", "!", ",", ":", "-", "--", "...", ";"],
]


def ptb_tokens(captions: list[str], folder: Path) -> list[str]:
    """What the Java tokenizer makes of captions, one a line, punctuation dropped."""
    file = folder / "captions.txt"
    file.write_text("\n".join(captions), encoding="utf-8", newline="")
    java = shutil.which("java")
    assert java is not None
    command = [java, "-cp", str(find_jar("PTB", _JAR)), "edu.stanford.nlp.process.PTBTokenizer"]
    output = subprocess.run(
        [*command, "-preserveLines", "-lowerCase", str(file)],
        check=True,
        capture_output=True,
        timeout=120,
    ).stdout.decode()
    lines = output.split("\n")[: len(captions)]
    return [
        " ".join(w for w in line.rstrip().split(" ") if w not in _PUNCTUATION).rstrip()
        for line in lines
    ]
