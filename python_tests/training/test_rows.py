"""A recipe's rows on their way into the loop: looked at, left out, trained on, shown."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toy_training import VOCABULARY, ToyBatch, ToyTask, losses, toy_recipe

from fastregion.training.data import DataSource, Record
from fastregion.training.dry_run import dry_run
from fastregion.training.loop import train


class _CaptionTask(ToyTask):
    """The letters of a caption are its tokens."""

    def batches(self, loading: Any) -> None:
        return None

    def sample(self, record: Record, rng: np.random.Generator) -> Tensor:
        assert record.image().shape == (8, 9, 3)
        return torch.tensor([ord(letter) % VOCABULARY for letter in record.captions[0][0]])

    def decoded(self, sample: Tensor) -> str:  # type: ignore[override]
        return super().decoded(ToyBatch((sample,)))


def _task() -> _CaptionTask:
    torch.manual_seed(3)
    return _CaptionTask(dropout=0.0, noise=False, rows=0, seconds=0.0)


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    """Ten rows, of which one names a picture that is not there."""
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    rows = [
        {"image": "a.png" if k else "gone.png", "mask": [1, 1, 5, 4], "caption": f"a cup {k}"}
        for k in range(10)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSource(format="jsonl", path=str(file))


def test_rows_are_trained_on_and_bad_ones_left_out(tmp_path: Path, source: DataSource) -> None:
    recipe = toy_recipe(
        steps=None, epochs=1, batch_size=3, data=(source,), max_bad_share=0.2, workers=1
    )
    with pytest.warns(UserWarning, match=r"left out: 10 rows, 1 of them bad .*\n.*gone\.png"):
        assert train(recipe, tmp_path / "run", task=_task())
    assert len(losses(tmp_path / "run")) == 3  # nine rows
    assert (tmp_path / "run" / "rows.json").is_file()


def test_too_many_bad_rows_end_it_before_it_begins(tmp_path: Path, source: DataSource) -> None:
    recipe = toy_recipe(data=(source,))
    with pytest.raises(ValueError, match=r"(?s)missing file.*gone\.png"):
        train(recipe, tmp_path / "run", task=_task())
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_start_that_failed_leaves_the_folder_to_the_next(tmp_path: Path) -> None:
    def start(path: str) -> None:
        recipe = toy_recipe(data=(DataSource(format="jsonl", path=path),))
        train(recipe, tmp_path / "run", task=_task())

    for path in ("gone.jsonl", "also_gone.jsonl"):
        with pytest.raises(FileNotFoundError, match=f"'{path}'"):
            start(path)
    (tmp_path / "run" / "checkpoints").mkdir()  # now there is something to lose
    differs = r"in data\.0\.path \(there 'also_gone\.jsonl', now 'gone\.jsonl'\); give another"
    with pytest.raises(ValueError, match=differs):
        start("gone.jsonl")


@pytest.mark.parametrize("dry", [True, False])
def test_rows_are_missed_before_weights(
    dry: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look: Any = dry_run if dry else functools.partial(train, output=tmp_path / "run")
    monkeypatch.setattr("fastregion.training.systems.gar.build_task", None)  # a call would raise
    recipe = toy_recipe(system="gar", start_from="gone")
    with pytest.raises(ValueError, match="data: expected at least one source of rows, got none"):
        look(recipe)
    recipe = replace(recipe, data=(DataSource(format="jsonl", path="gone.jsonl"),))
    with pytest.raises(FileNotFoundError, match=r"data: no such file: 'gone\.jsonl'"):
        look(recipe)


def test_no_rows_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data: expected at least one source of rows, got none"):
        train(toy_recipe(), tmp_path / "run", task=_task())


def test_a_dry_run_shows_rows_and_samples(source: DataSource) -> None:
    recipe = toy_recipe(data=(source,), max_bad_share=0.2, batch_size=2)
    found = dry_run(recipe, task=_task())
    assert found.rows is not None
    assert "gone.png" in found.rows
    assert len(found.texts) == 2
    first, learned = found.texts[0].rstrip("]").split(" [[")
    assert int(first) == ord("a") % VOCABULARY
    assert len(learned.split()) == len("a cup 1") - 1
    assert found.tokens == 2 * len("a cup 1")
