"""The second step of an evaluation: what a judge says about every prediction.

Answers are kept on disk under a hash of all that decides them: the judge, the exact messages
(pictures included), the options of the request, the repeat and the attempt. A prediction, a wording
or a picture that has changed is judged anew; nothing else is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastregion.evaluation.benchmarks.base import Benchmark, Item, JudgeCall, Prediction
from fastregion.evaluation.judges.chat import Chat, Unanswered
from fastregion.evaluation.parallel import each
from fastregion.evaluation.row_file import RowFile

__all__ = ["Answers", "Judged", "judge"]

Answers = Mapping[tuple[str, str], str]
"""By item id and name of the call."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What judges said.

    Attributes:
        answers: for each repeat; the last attempt where none could be read.
        missing: why an item has not all of its answers, by item id; another run may try again.
        unreadable: calls of which no attempt could be read, as (item id, name of the call).
        usage: tokens of all these answers, with the number of ``requests``.
    """

    answers: Sequence[Answers] = ({},)
    missing: Mapping[str, str] = field(default_factory=dict)
    unreadable: Sequence[tuple[str, str]] = ()
    usage: Mapping[str, int] = field(default_factory=dict)


def judge(
    benchmark: Benchmark,
    chat: Chat,
    items: Sequence[Item],
    predictions: Mapping[str, Prediction],
    wording: str,
    data: Path,
    *,
    repeats: int,
    path: Path | None,
    progress: bool,
) -> Judged:
    """Ask a judge all that the file does not hold yet.

    Args:
        benchmark: says what is asked and what can be read.
        chat: the judge, asked about up to ``chat.concurrency`` items at a time.
        items: of the benchmark; those without a prediction are left out.
        predictions: by item id.
        wording: text of the judge's template.
        data: the benchmark's folder.
        repeats: how often every call is made, at least 1.
        path: the JSONL file; None keeps the answers in memory.
        progress: whether a bar on standard error shows how far it is.

    Raises:
        ValueError: the file holds something else.
    """
    header = {"kind": "answers", "benchmark": benchmark.name, "version": benchmark.version}
    file = RowFile(path, header, key=lambda row: row["key"])

    def work(item: Item) -> _Item:
        calls = benchmark.judge_calls(item, predictions[item.id], wording, data)
        found = _Item(item.id)
        for call in calls:
            for repeat in range(repeats):
                try:
                    row, readable = _ask(benchmark, chat, item, call, repeat, file, found.usage)
                except Unanswered as error:
                    found.missing = str(error)
                    continue  # the other answers are worth having when it is tried again
                found.answers[call.key, repeat] = row["answer"]
                if not readable:
                    found.unreadable.append(call.key)
        return found

    asked = [item for item in items if item.id in predictions]
    title = "asking the judge" if progress else None
    done = {found.id: found for found in each(work, asked, chat.concurrency, title)}
    results = [done[item.id] for item in asked]  # in the order of the items, whoever came first
    usage: Counter[str] = Counter()
    for found in results:
        usage.update(found.usage)
    return Judged(
        answers=[
            {
                (found.id, key): text
                for found in results
                for (key, of), text in found.answers.items()
                if of == repeat
            }
            for repeat in range(repeats)
        ],
        missing={found.id: found.missing for found in results if found.missing is not None},
        unreadable=[(found.id, key) for found in results for key in found.unreadable],
        usage=dict(sorted(usage.items())),
    )


@dataclass
class _Item:
    """What was said about one item; answers by name of the call and repeat."""

    id: str
    answers: dict[tuple[str, int], str] = field(default_factory=dict)
    missing: str | None = None
    unreadable: list[str] = field(default_factory=list)
    usage: Counter[str] = field(default_factory=Counter)


def _ask(
    benchmark: Benchmark,
    chat: Chat,
    item: Item,
    call: JudgeCall,
    repeat: int,
    file: RowFile,
    usage: Counter[str],
) -> tuple[Mapping[str, Any], bool]:
    """The row of the first answer that can be read, or of the last, and whether it can be."""
    row: Mapping[str, Any] = {}
    for attempt in range(max(1, call.attempts)):
        asked = call.at(attempt)
        key = _key(chat.name, asked, repeat, attempt)
        known = file.rows.get(key)
        if known is None:
            answer = chat.ask(asked.messages, asked.options)
            known = {
                "key": key,
                "judge": chat.name,
                "item": item.id,
                "call": call.key,
                "repeat": repeat,
                "attempt": attempt,
                "answer": answer.text,
                "usage": dict(answer.usage),
            }
            file.add(known)
        row = known
        usage.update({"requests": 1, **row["usage"]})
        if benchmark.readable(item, call.key, row["answer"]):
            return row, True
    return row, False


def _key(name: str, call: JudgeCall, repeat: int, attempt: int) -> str:
    """The same text of two calls of an item is asked twice: they may be answered differently."""
    what = [name, call.item, call.key, call.messages, call.options, repeat, attempt]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=dict).encode()).hexdigest()
