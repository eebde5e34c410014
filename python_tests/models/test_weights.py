"""Weights in files: names, dtypes, shards, and files that do not fit."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastregion.models.weights import Layout, load_weights, save_weights, stored_dtype

LAYOUT = Layout({"a.": "first.", "": "rest."})


class Tied(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a = nn.Embedding(5, 3)
        self.b = nn.Linear(3, 5, bias=False)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm1d(4)


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def empty(dtype: torch.dtype = torch.float32) -> Tied:
    with torch.device("meta"):
        model = Tied().to(dtype)
    model.b.weight = model.a.weight
    return model


@pytest.mark.parametrize("shard_bytes", [1 << 20, 70])
def test_round_trip(tmp_path: Path, shard_bytes: int) -> None:
    model = Tied()
    files = save_weights(model, tmp_path, LAYOUT, shard_bytes=shard_bytes)
    shards = [name for name in files if name.endswith(".safetensors")]
    stored: dict[str, Tensor] = {}
    for name in shards:
        stored.update(load_file(tmp_path / name))
    assert set(stored) == {
        "first.weight", "rest.norm.weight", "rest.norm.bias", "rest.norm.running_mean",
        "rest.norm.running_var", "rest.norm.num_batches_tracked",
    }  # fmt: skip
    if shard_bytes == 70:
        assert len(shards) > 1
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == set(shards)
        assert index["metadata"]["total_size"] == sum(
            t.numel() * t.element_size() for t in stored.values()
        )
    for loaded in (Tied(1), empty()):
        load_weights(loaded, tmp_path, LAYOUT)
        assert equal(loaded, model)
        assert loaded.b.weight is loaded.a.weight


def test_dtypes(tmp_path: Path) -> None:
    model = Tied()
    save_weights(model, tmp_path, LAYOUT, dtype=torch.bfloat16)
    assert stored_dtype(tmp_path) == torch.bfloat16
    assert model.a.weight.dtype == torch.float32
    loaded = empty(torch.float64)
    load_weights(loaded, tmp_path, LAYOUT)
    assert loaded.a.weight.dtype == torch.float64
    assert loaded.norm.num_batches_tracked.dtype == torch.int64
    assert torch.equal(loaded.a.weight, model.a.weight.bfloat16().double())


def test_a_tied_tensor_may_be_stored_under_each_name(tmp_path: Path) -> None:
    model = Tied()
    save_weights(model, tmp_path, LAYOUT)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    for names in (["rest.b.weight"], ["first.weight", "rest.b.weight"]):
        values = {key: value for key, value in stored.items() if key != "first.weight"}
        save_file(values | {name: stored["first.weight"].clone() for name in names}, file)
        loaded = empty()
        load_weights(loaded, tmp_path, LAYOUT)
        assert equal(loaded, model)


def test_pickled_weights_are_read_but_not_executed(tmp_path: Path) -> None:
    model = Tied()
    values = {LAYOUT.published(name): value for name, value in model.state_dict().items()}
    file = tmp_path / "pytorch_model.bin"
    for new_format in (True, False):
        torch.save(values, file, _use_new_zipfile_serialization=new_format)
        loaded = empty()
        load_weights(loaded, tmp_path, LAYOUT)
        assert equal(loaded, model)
    marker = tmp_path / "executed"

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    for write in (
        torch.save,
        lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)),
    ):
        write({"first.weight": Attack()}, file)
        with pytest.raises(ValueError, match=r"pytorch_model\.bin' (holds more|is damaged)"):
            load_weights(empty(), tmp_path, LAYOUT)
        assert not marker.exists()
    torch.save([1], file)
    with pytest.raises(ValueError, match="must hold a dictionary of tensors"):
        load_weights(empty(), tmp_path, LAYOUT)
    torch.save({"first.weight": 3}, file)
    with pytest.raises(ValueError, match=r"'first\.weight' must be a tensor"):
        load_weights(empty(), tmp_path, LAYOUT)


class TestRefusals:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        save_weights(Tied(), tmp_path, LAYOUT)
        return tmp_path / "model.safetensors"

    def refused(self, file: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_weights(empty(), file.parent, LAYOUT)

    def test_tensors(self, file: Path) -> None:
        good = load_file(file)
        save_file({k: v for k, v in good.items() if k != "rest.norm.bias"}, file)
        self.refused(file, r"no file has tensor 'rest\.norm\.bias' \(1 of 6")
        save_file({**good, "rest.more": torch.ones(2)}, file)
        self.refused(file, r"model\.safetensors' has an unknown tensor 'rest\.more'")
        save_file({**good, "rest.norm.bias": torch.ones(5)}, file)
        self.refused(file, r"model\.safetensors': 'rest\.norm\.bias' must have shape \(4,\)")
        save_file({**good, "rest.norm.bias": torch.ones(4, dtype=torch.int64)}, file)
        self.refused(file, r"'rest\.norm\.bias' must be float32, got int64")
        save_file({**good, "rest.norm.bias": torch.ones(4).half()}, file)
        with pytest.raises(ValueError, match=r"got float32 .*, float16 .*choose one with dtype="):
            stored_dtype(file.parent)

    def test_damaged_files(self, file: Path) -> None:
        good = file.read_bytes()
        for count in (0, 5, 40, len(good) - 3):
            file.write_bytes(good[:count])
            self.refused(file, r"model\.safetensors' is (cut off|damaged)")
        file.write_bytes(struct.pack("<Q", 3) + b"{x}" + good)
        self.refused(file, r"model\.safetensors' is damaged: no valid JSON")
        for entry in ({}, {"dtype": "F32", "shape": [5, 3], "data_offsets": [0, 4]},
                      {"dtype": "X", "shape": [], "data_offsets": [0, 0]},
                      {"dtype": "F32", "shape": [-1, 3], "data_offsets": [9, -3]}):  # fmt: skip
            header = json.dumps({"first.weight": entry}).encode()
            file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(99))
            self.refused(file, r"model\.safetensors': .*'first\.weight'")

    def test_indices(self, file: Path) -> None:
        index = file.with_name("model.safetensors.index.json")
        file.rename(file.with_name("one.safetensors"))
        index.write_text(json.dumps({"weight_map": {"first.weight": "../one.safetensors"}}))
        self.refused(file, r"the file of 'first\.weight' must be in the same folder")
        index.write_text(json.dumps({"weight_map": {"first.weight": "two.safetensors"}}))
        with pytest.raises(FileNotFoundError, match=r"names 'two\.safetensors', which is missing"):
            load_weights(empty(), file.parent, LAYOUT)
        for text in ("[", "{}", '{"weight_map": []}'):
            index.write_text(text)
            self.refused(file, r"index\.json'")
        index.unlink()
        with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors and no pytorch"):
            load_weights(empty(), file.parent, LAYOUT)
