"""HF datasets by columns."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_rows
from PIL import Image

from fastregion.training.data import DataSource, open_sources
from fastregion.training.data.hf_rows import HfRows


def test_hf_dataset_with_a_mask_column(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            "picture": Image.fromarray(tiny_rows.pixels(seed)),
            "mask": Image.fromarray(tiny_rows.mask(seed)),
            "text": f"A cup {seed}.",
        }
        for seed in (0, 1)
    ]
    data = datasets.Dataset.from_list(rows)
    assert isinstance(data.features["mask"], datasets.Image)
    data.save_to_disk(tmp_path / "saved")
    columns = {"image": "picture", "caption": "text"}
    for kind in ("hf", "dam"):
        records = tiny_rows.opened(tmp_path, format=kind, path="saved", columns=columns)
        assert records.name(1) == "saved, row 1"
        for seed, record in enumerate(records):
            tiny_rows.check_record(record, seed, seed=seed)
            assert record.captions == ((f"A cup {seed}.",),)
    with pytest.raises(ValueError, match="has no splits, got split 'val'"):
        tiny_rows.opened(tmp_path, format="hf", path="saved", split="val")
    with pytest.raises(ValueError, match="is no folder that datasets have saved"):
        tiny_rows.opened(tmp_path, format="hf", path=".")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        tiny_rows.opened(tmp_path, format="hf", path="a/b/c")


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "saved").mkdir()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "fastregion\[train\]"'):
        tiny_rows.opened(tmp_path, format="hf", path="saved")


def test_lists_of_masks_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [
        {
            "image": Image.fromarray(tiny_rows.pixels(seed)),
            "masks": [Image.fromarray(tiny_rows.mask(seed + k)) for k in (0, 1)],
            "captions": ["A cup.", "A pen."],
        }
        for seed in (0, 1)
    ]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "masks": datasets.List(datasets.Image()),
            "captions": datasets.List(datasets.Value("string")),
        }
    )
    data = datasets.Dataset.from_list(rows, features=features)
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "rows.parquet")
    arrow = next((tmp_path / "saved").glob("*.arrow")).name
    assert isinstance(HfRows(tmp_path / "saved")[0]["image"]["bytes"], bytes)  # not decoded yet
    for part in ("train", "validation"):
        (tmp_path / "hub/data").mkdir(parents=True, exist_ok=True)
        data.to_parquet(tmp_path / f"hub/data/{part}-00000-of-00001.parquet")
    for whole in (tmp_path / "saved" / arrow, tmp_path / "rows.parquet"):
        torn = tmp_path / f"torn{whole.suffix}"
        torn.write_bytes(whole.read_bytes()[:-9])
        with pytest.raises(ValueError, match=r"^data: '.*torn.*' is damaged, or of another form"):
            tiny_rows.opened(tmp_path, format="hf", path=torn.name)
    for path in ("saved", "rows.parquet", f"saved/{arrow}", "hub"):
        records = tiny_rows.opened(tmp_path, format="hf", path=path)
        assert len(records) == 2
        for seed, record in enumerate(records):
            tiny_rows.check_record(record, seed, seed + 1, seed=seed)
            assert record.captions == (("A cup.",), ("A pen.",))
    # What was found out about the rows holds no longer when a file below the folder changes.
    hub = [DataSource(format="hf", path="hub")]
    before = open_sources(hub, tmp_path).stamp
    os.utime(tmp_path / "hub/data/train-00000-of-00001.parquet", (1, 1))
    assert open_sources(hub, tmp_path).stamp != before


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"image": "a.png", "mask": [0, 0, 9, 9], "caption": "A cup."}]
    asked = []

    def load_dataset(name: str) -> Any:  # of the Hub, which is not asked in tests
        asked.append(name)
        if name != "owner/rows":
            raise datasets.exceptions.DatasetNotFoundError("no such dataset")
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (record,) = tiny_rows.opened(tmp_path, format="hf", path="owner/rows")
    assert record.captions == (("A cup.",),)
    with pytest.raises(FileNotFoundError, match="is no path, and no dataset of the Hub"):
        tiny_rows.opened(tmp_path, format="hf", path="owner/others")
    assert asked == ["owner/rows", "owner/others"]
