"""Webdataset shards."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tiny_rows
from PIL import Image

from fastregion.training.data import (
    BadRow,
)


def write_shard(file: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(file, mode) as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


def test_webdataset_shards(tmp_path: Path) -> None:
    grey = tiny_rows.mask(2).astype(np.uint8) * 255
    jpeg = io.BytesIO()
    Image.fromarray(tiny_rows.pixels(1)).save(jpeg, format="JPEG", quality=100)
    write_shard(
        tmp_path / "b.tar",
        {
            "x/c.jpg": jpeg.getvalue(),
            "x/c.png": tiny_rows.png(grey),
            "x/c.txt": "A pen \u00e9.".encode(),
            "x/c.pkl": b"never read",
        },
    )
    about = {"caption": "A cup.", "mask": tiny_rows.rle(1), "id": "seven", "image": "before.jpg"}
    write_shard(
        tmp_path / "a.tar",
        {
            "a.png": tiny_rows.png(tiny_rows.pixels(4)),
            "a.json": json.dumps(about).encode(),
            "b.png": tiny_rows.png(tiny_rows.pixels(5)),
            "b.mask.png": tiny_rows.png(grey),
            "b.json": json.dumps({"captions": ["A bowl."]}).encode(),
            "b.txt": b"The JSON has texts of its own.",
        },
    )
    for kind in ("webdataset", "dam"):
        a, b, c = tiny_rows.opened(tmp_path, format=kind, path=".")
        tiny_rows.check_record(a, 1, seed=4)
        tiny_rows.check_record(b, 2, seed=5)
        assert [record.id for record in (a, b, c)] == ["seven", "b", "x/c"]
        assert [record.captions[0][0] for record in (a, b, c)] == [
            "A cup.",
            "A bowl.",
            "A pen \u00e9.",
        ]
        assert c.image().shape == (30, 40, 3)
        assert np.array_equal(c.regions()[0].mask, tiny_rows.mask(2))
    records = tiny_rows.opened(
        tmp_path, format="webdataset", path="b.tar", columns={"caption": "txt"}
    )
    assert records.name(0) == "b.tar, x/c"


def test_webdataset_refuses(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a \.tar, or a folder of them"):
        tiny_rows.opened(tmp_path, format="webdataset", path=".")
    write_shard(tmp_path / "c.tar", {"a.txt": b"a"}, "w:gz")
    with pytest.raises(ValueError, match="is no plain tar file"):
        tiny_rows.opened(tmp_path, format="webdataset", path="c.tar")
    write_shard(tmp_path / "d.tar", {"a.png": bytes(2000)})
    (tmp_path / "d.tar").write_bytes((tmp_path / "d.tar").read_bytes()[:1200])
    with pytest.raises(ValueError, match=r"d\.tar'"):
        tiny_rows.opened(tmp_path, format="webdataset", path="d.tar")


def test_members_that_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tiny_rows.png(tiny_rows.pixels())
    about = json.dumps({"caption": "A cup.", "mask": [0, 0, 9, 9]}).encode()
    write_shard(tmp_path / "a.tar", {"a.png": picture, "a.json": about})
    with tarfile.open(tmp_path / "a.tar", "a") as shard:
        link = tarfile.TarInfo("a.mask.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        shard.addfile(link)
    (record,) = tiny_rows.opened(tmp_path, format="webdataset", path="a.tar")
    assert record.regions()[0].area == 81
    monkeypatch.setattr("fastregion.training.data.tar_rows._MAX_BYTES", 100)
    with pytest.raises(BadRow, match="member 'png' is larger than"):
        tiny_rows.opened(tmp_path, format="webdataset", path="a.tar")[0]
    write_shard(tmp_path / "b.tar", {"a.png": picture, "a.PNG": picture})
    with pytest.raises(ValueError, match=r"b\.tar' has 'a\.PNG' twice"):
        tiny_rows.opened(tmp_path, format="webdataset", path="b.tar")
