"""Evaluation of captioners that say what can be seen of a region.

Facts (colour, pattern, shape, size, place, surroundings) are read out of each caption by words and
compared with the ground truth of rendered scenes, whose seeds are never trained on, and of
annotated sample photographs.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from fastregion._version import __version__
from fastregion.evaluation.examples import Example, Task, scene_tasks
from fastregion.evaluation.photos import photo_tasks
from fastregion.evaluation.records import Record, RecordFile
from fastregion.evaluation.report import Report, make_report
from fastregion.regions import Region

if TYPE_CHECKING:
    from torch import nn

    from fastregion.models import Captioner

TASK_VERSION = 1
"""Raised whenever the same captions may get other numbers."""

_MAX_NEW_TOKENS = 96  # several times the longest right caption


def evaluate(
    captioner: Captioner,
    *,
    scenes: int = 500,
    first_seed: int = 0,
    lookalikes: int | None = None,
    photos: str | Path | None = None,
    prompt: str | None = None,
    unique: bool = False,
    output: str | Path | None = None,
    progress: bool = True,
) -> Report:
    """Measures how well a captioner describes what can be seen.

    Args:
        captioner: The captioner.
        scenes: Number of rendered scenes.
        first_seed: Seed of the first scene; the seeds must lie in 0..9,999.
        lookalikes: How many objects of one shape and colour each scene has; None for scenes of all
            kinds.
        photos: JSON file of annotated photographs (:mod:`fastregion.evaluation.photos`), or None
            for none.
        prompt: What the captioner is asked for, such as "in 6 words"; None for its description.
        unique: Whether it compares the captions of a picture; see ``Captioner.describe``.
        output: JSONL file that gets one line for each picture as soon as it is done. If it already
            holds results of the same captioner, pictures that it holds are not captioned again.
        progress: Whether to show a progress bar on standard error.

    Returns:
        The report on the pictures asked for; ``rich.print`` shows it as a table.

    Raises:
        ValueError: no picture is asked for, a seed is not an evaluation seed, a file is malformed,
            or ``output`` holds results of another captioner.
        FileNotFoundError: ``photos`` does not exist.
        ImportError: a package that carries the photographs is not installed.
    """
    tasks = scene_tasks(scenes, first_seed, lookalikes)
    if photos is not None:
        tasks += photo_tasks(photos)
    options: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
    if unique:
        options["unique"] = True
    return evaluate_tasks(captioner, tasks, options=options, output=output, progress=progress)


def evaluate_tasks(
    captioner: Captioner,
    tasks: Sequence[Task],
    *,
    options: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    progress: bool = True,
) -> Report:
    """Measures a captioner on any examples; see :func:`evaluate`.

    Args:
        captioner: The captioner.
        tasks: Makes the examples.
        options: Further arguments of ``captioner.describe``, JSON-able.
        output: As for :func:`evaluate`.
        progress: As for :func:`evaluate`.
    """
    options = dict(options or {})
    if not tasks:
        raise ValueError("scenes: expected at least one scene or photograph, got none")
    header = {
        "task": "mini",
        "version": TASK_VERSION,
        "fastregion": __version__,
        "model": captioner.model_id,
        "weights": _fingerprint(captioner.model),
        **options,
    }
    file = RecordFile(None if output is None else Path(output), header)
    waiting = [task for task in tasks if task.name not in file.records]
    bar = track(
        waiting, "captioning", console=Console(stderr=True), disable=not progress, transient=True
    )
    for task in bar:
        file.add(_caption(captioner, task, task.make(), options))
    return make_report(header, (file.records[task.name] for task in tasks))


def _caption(
    captioner: Captioner, task: Task, example: Example, options: Mapping[str, Any]
) -> Record:
    regions = [Region.from_mask(mask) for mask in example.masks]
    captions = captioner.describe(example.image, regions, max_new_tokens=_MAX_NEW_TOKENS, **options)
    return Record(
        name=task.name,
        group=task.group,
        lookalike=example.lookalike,
        complete=example.complete,
        captions=tuple(captions),
        truths=tuple(example.truths),
        log_probs=_log_probs(captioner, example, regions, captions, options),
    )


def _log_probs(
    captioner: Captioner,
    example: Example,
    regions: Sequence[Region],
    captions: Sequence[str],
    options: Mapping[str, Any],
) -> tuple[tuple[float, ...] | None, ...]:
    """Mean log-probability per token of every caption for every region."""
    worded = [caption for caption in captions if caption.strip()]
    if len(regions) < 2 or not worded:
        return (None,) * len(captions)
    pairs = [(region, caption) for caption in worded for region in regions]
    scores = captioner.score(
        example.image,
        [region for region, _ in pairs],
        [text for _, text in pairs],
        options.get("prompt"),
    )
    rows = iter(np.reshape(scores, (len(worded), len(regions))).tolist())
    return tuple(tuple(next(rows)) if caption.strip() else None for caption in captions)


def _fingerprint(model: nn.Module) -> str:
    """A number for the weights; of large parameters only a thousand values are read."""
    checksum = 0
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 1024)].float().cpu().numpy().tobytes()
        checksum = zlib.crc32(sample, zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"
