"""Files of every kind, checked by workers and made to batches by workers."""

from __future__ import annotations

import io
import json
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tiny_rows

from fastregion.training.data import BatchLoader, DataSource, Record, check_records, open_sources

COUNT = 6


def write_sources(folder: Path) -> list[DataSource]:
    """Three sources of six rows each; one row of the first has no text."""
    datasets = pytest.importorskip("datasets")
    rows = []
    for seed in range(COUNT):
        tiny_rows.write_picture(folder / f"{seed}.png", seed)
        rows.append(
            {"image": f"{seed}.png", "mask": tiny_rows.rle(seed), "caption": f"A cup {seed}."}
        )
    tiny_rows.write_lines(folder / "rows.jsonl", [*rows, {**rows[0], "caption": ""}])
    gar = [
        {
            "image": row["image"],
            "mask_rle": row["mask"],
            "conversations": tiny_rows.dialogue(row["caption"]),
        }
        for row in rows
    ]
    datasets.Dataset.from_list(gar).save_to_disk(folder / "saved")
    with tarfile.open(folder / "shard.tar", "w") as shard:
        for seed, row in enumerate(rows):
            about = {key: row[key] for key in ("mask", "caption")}
            picture = (folder / row["image"]).read_bytes()
            for kind, data in (("png", picture), ("json", json.dumps(about).encode())):
                info = tarfile.TarInfo(f"{seed:03}.{kind}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
    return [
        DataSource(format="jsonl", path="rows.jsonl"),
        DataSource(format="gar", path="saved", images="."),
        DataSource(format="webdataset", path="shard.tar", repeat=2),
    ]


def seen(record: Record, rng: np.random.Generator) -> tuple[str, int, int, float]:
    """What a sample holds of a row: its id, sums over picture and mask, and chance."""
    (region,) = record.regions()
    return record.id, int(record.image().sum()), region.area, rng.random()


def test_files_to_batches(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    records = open_sources(sources, tmp_path)
    report = check_records(records, workers=2, progress=False)
    assert report.counts == {"no text": 1}
    usable = report.usable(records)
    assert len(usable) == 3 * COUNT
    per_epoch = 4 * COUNT  # one source comes twice

    def batches(workers: int) -> BatchLoader:
        return BatchLoader(
            usable,
            sample=seen,
            num_tokens=lambda sample: 1,
            collate=list,
            seed=3,
            samples_per_batch=5,
            num_workers=workers,
        )

    def samples(workers: int) -> list[tuple[str, int, int, float]]:
        loader = batches(workers)
        found = [sample for item in islice(loader, 5) for sample in item.batch]
        loader.close()
        assert loader.bad_rows == 0
        return found

    expected = samples(0)
    assert samples(2) == expected
    assert len(expected) == per_epoch
    assert len({found[3] for found in expected}) == per_epoch  # copies have chances of their own
    sums = [int(tiny_rows.pixels(seed).sum()) for seed in range(COUNT)]
    areas = [int(tiny_rows.mask(seed).sum()) for seed in range(COUNT)]
    told = sorted((total, area) for _, total, area, _ in expected)
    assert told == sorted(4 * list(zip(sums, areas, strict=True)))
