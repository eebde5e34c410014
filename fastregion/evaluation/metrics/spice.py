"""SPICE (Anderson et al., 2016), by the jar of pycocoevalcap.

The parser's models are not in that package, and its own class downloads them when it is made. Here
nothing is downloaded: where they are missing, the message says which files, and where to put them.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fastregion.evaluation.metrics.common import MetricResult, MetricUnavailable, check_captions
from fastregion.evaluation.metrics.java import find_jar, find_java
from fastregion.json_files import read_json_file

__all__ = ["spice"]

_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_MAX_BYTES = 1 << 30


def spice(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    timeout: float = 3600.0,
    heap: str = "8G",
) -> MetricResult:
    """F-score over the tuples of scene graphs; the corpus has the mean.

    Args:
        candidates: tokenised captions.
        references: for each candidate, at least one.
        timeout: seconds for all.
        heap: Java's largest heap.

    Returns:
        Values in 0..1; an item without a score is NaN, and then so is the corpus.

    Raises:
        MetricUnavailable: Java, the jar or the models are missing, or Java fails.
        TimeoutError: it takes longer than ``timeout``.
        ValueError: no candidates, an item without a reference, or other numbers of them.
    """
    check_captions(candidates, references)
    jar, java = find_jar("SPICE", "spice/spice-1.0.jar"), find_java("SPICE")
    missing = [name for name in _MODELS if not (jar.parent / "lib" / name).is_file()]
    if missing:
        raise MetricUnavailable(
            f"SPICE needs {' and '.join(missing)} of Stanford CoreNLP 3.6.0 in "
            f"{str(jar.parent / 'lib')!r}"
        )
    rows = [
        {"image_id": index, "test": candidate, "refs": list(texts)}
        for index, (candidate, texts) in enumerate(zip(candidates, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "captions.json", Path(folder) / "scores.json"
        source.write_text(json.dumps(rows), encoding="utf-8")
        command = [java, f"-Xmx{heap}", "-jar", jar.name, str(source), "-out", str(target)]
        try:
            subprocess.run(
                [*command, "-subset", "-silent"],
                cwd=jar.parent,
                timeout=timeout,
                check=True,
                capture_output=True,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"SPICE: no result within {timeout:g} seconds") from error
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip()[-500:]
            raise MetricUnavailable(f"SPICE: Java failed: {reason}") from error
        scores = read_json_file(target, _MAX_BYTES, "SPICE")
    found = {row["image_id"]: row["scores"]["All"]["f"] for row in scores}
    items = tuple(
        math.nan if found[index] is None else float(found[index]) for index in range(len(rows))
    )
    return MetricResult(corpus=sum(items) / len(items), items=items)
