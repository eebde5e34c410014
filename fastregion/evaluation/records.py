"""Results of an evaluation on disk: a JSONL file that a later run continues.

The first line says what was evaluated; every other line is one picture with its captions, the truth
they are judged by and the log-probabilities for self-retrieval, so that scoring can be repeated
without the model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastregion.evaluation.ground_truth import Neighbor, RegionTruth


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a captioner said about one picture.

    Attributes:
        name: Name of the task.
        group: Set of examples it is counted in.
        lookalike: Whether several regions share colour and shape.
        complete: Whether the regions are all that the picture shows.
        captions: One caption for each region.
        truths: What is true of each region.
        log_probs: ``log_probs[k][r]``: mean log-probability per token of caption k for region r;
            None for a caption without words.
    """

    name: str
    group: str
    lookalike: bool
    complete: bool
    captions: tuple[str, ...]
    truths: tuple[RegionTruth, ...]
    log_probs: tuple[tuple[float, ...] | None, ...]

    def to_json(self) -> str:
        """One line of JSON; sets become sorted lists."""
        return json.dumps(dataclasses.asdict(self), default=sorted)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Inverse of :meth:`to_json`."""
        values = json.loads(line)
        values["captions"] = tuple(values["captions"])
        values["truths"] = tuple(_truth_from_json(truth) for truth in values["truths"])
        values["log_probs"] = tuple(
            None if row is None else tuple(row) for row in values["log_probs"]
        )
        return cls(**values)


class RecordFile:
    """A JSONL file of records that grows by one line after every picture.

    Args:
        path: The file; None keeps the records in memory only.
        header: What is evaluated. A file that already holds records must have been written with the
            same header.

    Attributes:
        records: The records of this run and of the runs before it, by name.

    Raises:
        ValueError: the file holds results of something else, or is no such file.
    """

    def __init__(self, path: Path | None, header: Mapping[str, Any]) -> None:
        self.records: dict[str, Record] = {}
        self._path = path
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        found = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        start = json.dumps(header) + "\n"
        if start.startswith(found):  # new, or stopped while it wrote its first line
            path.write_text(start, encoding="utf-8")
        else:
            self._read(path, found, header)

    def add(self, record: Record) -> None:
        """Keeps a record and writes it at once: a run that is stopped loses one picture."""
        self.records[record.name] = record
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(record.to_json() + "\n")

    def _read(self, path: Path, text: str, header: Mapping[str, Any]) -> None:
        whole, _, torn = text.rpartition("\n")
        lines = whole.split("\n")
        try:
            found = json.loads(lines[0])
        except json.JSONDecodeError:
            raise ValueError(f"output: {path} is not a file of evaluation results") from None
        if found != dict(header):
            raise ValueError(
                f"output: {path} holds results of {found}, expected {dict(header)}; "
                "name another file or remove it"
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                record = Record.from_json(line)
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(f"output: {path} line {number} is damaged: {error}") from None
            self.records[record.name] = record
        if torn:  # the run before was stopped while it wrote
            path.write_text(whole + "\n", encoding="utf-8")


def _truth_from_json(values: dict[str, Any]) -> RegionTruth:
    return RegionTruth(
        **{
            **values,
            **{name: _words(values[name]) for name in _WORD_SETS},
            "second_colors": frozenset(values["second_colors"]),
            "centroid": tuple(values["centroid"]),
            "neighbors": None
            if values["neighbors"] is None
            else tuple(
                Neighbor(
                    relations=frozenset(neighbor["relations"]),
                    colors=_words(neighbor["colors"]),
                    shapes=_words(neighbor["shapes"]),
                )
                for neighbor in values["neighbors"]
            ),
        }
    )


_WORD_SETS = ("colors", "patterns", "shapes", "sizes", "places", "backgrounds", "cut_edges")


def _words(found: list[str] | None) -> frozenset[str] | None:
    return None if found is None else frozenset(found)
