"""Weights in files: read tensor by tensor into a model, and written under the published names.

A folder holds ``model.safetensors``, or shards that ``model.safetensors.index.json`` lists; or, as
older ones do, ``pytorch_model.bin`` with or without an index, of which nothing is executed. Each
tensor is read straight into the memory of its parameter, so the weights never lie in memory twice.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fastregion.ops.checks import dtype_name

__all__ = [
    "OWN_NAMES",
    "WEIGHTS",
    "Layout",
    "StoredTensor",
    "load_weights",
    "read_stored",
    "save_weights",
    "stored_dtype",
]

WEIGHTS, _PICKLED = "model.safetensors", "pytorch_model.bin"
_MAX_JSON_BYTES = 100 << 20  # of a header or an index; the limit of the safetensors library
_SHARD_BYTES = 5 << 30  # largest file that is written
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        key: its name there.
        shape: its shape.
        dtype: its type.
        file: where it is.
        read: brings it into memory.
    """

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Layout:
    """How files call the parameters of a model, and in which form they hold them.

    Attributes:
        prefixes: the beginning of our name to the beginning of theirs; the first that fits counts.
    """

    prefixes: Mapping[str, str]

    def published(self, name: str) -> str:
        """Their name of our parameter."""
        for ours, theirs in self.prefixes.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        raise KeyError(name)

    def from_files(self, stored: Iterator[StoredTensor]) -> Iterator[StoredTensor]:
        """The published parameters, from what the files hold; here they are the same."""
        return stored

    def to_files(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the files shall hold, from the published parameters; here they are the same."""
        return named


OWN_NAMES = Layout({"": ""})


def load_weights(
    model: nn.Module,
    folder: str | os.PathLike[str],
    layout: Layout = OWN_NAMES,
    *,
    optional: Sequence[str] = (),
) -> None:
    """Give every parameter and stored buffer of a model the value that a folder holds for it.

    They are replaced by new ones in their dtype, on their device (the CPU for those on ``meta``).
    Of parameters that are tied to each other, the file may hold one or all; the first is taken.

    Args:
        model: the model.
        folder: see the module; or one file.
        layout: how the files call its parameters.
        optional: beginnings of our names of parameters that the files may leave out; those keep
            their values.

    Raises:
        FileNotFoundError: no weights in the folder, or a file that its index names is missing.
        ValueError: a damaged file, one with anything but tensors in it, or tensors that are
            missing, unknown, or of another shape or kind; the message names file and key.
    """
    names: dict[int, list[str]] = {}  # of each tensor: several where parameters are tied
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
        tensors[layout.published(name)] = tensor
    missing = dict(names)
    for stored in layout.from_files(read_stored(folder)):
        tensor, where = tensors.get(stored.key), f"model: {str(stored.file)!r}"
        if tensor is None:
            raise ValueError(f"{where} has an unknown tensor {stored.key!r}")
        if tuple(tensor.shape) != stored.shape:
            raise ValueError(
                f"{where}: {stored.key!r} must have shape {tuple(tensor.shape)}, got {stored.shape}"
            )
        if tensor.dtype.is_floating_point != stored.dtype.is_floating_point:
            raise ValueError(
                f"{where}: {stored.key!r} must be {dtype_name(tensor.dtype)}, "
                f"got {dtype_name(stored.dtype)}"
            )
        if missing.pop(id(tensor), None) is not None:
            _replace(model, names[id(tensor)], tensor, stored.read())
    missing = {
        key: value for key, value in missing.items() if not value[0].startswith(tuple(optional))
    }
    if missing:
        key = layout.published(next(iter(missing.values()))[0])
        raise ValueError(
            f"model: {os.fspath(folder)!r}: no file has tensor {key!r} "
            f"({len(missing)} of {len(names)} are missing)"
        )


def stored_dtype(folder: str | os.PathLike[str]) -> torch.dtype:
    """The floating-point type of a folder's weights.

    Raises:
        FileNotFoundError, ValueError: as for :func:`load_weights`; also several types, of which one
            has to be chosen.
    """
    found: dict[torch.dtype, str] = {}
    for stored in read_stored(folder):
        if stored.dtype.is_floating_point:
            found.setdefault(stored.dtype, stored.key)
    if len(found) != 1:
        listed = ", ".join(f"{dtype_name(dtype)} ({key!r})" for dtype, key in found.items())
        raise ValueError(
            f"model: the weights in {os.fspath(folder)!r} must have one floating-point type, "
            f"got {listed or 'none'}; choose one with dtype="
        )
    return next(iter(found))


def save_weights(
    model: nn.Module,
    folder: str | os.PathLike[str],
    layout: Layout = OWN_NAMES,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = _SHARD_BYTES,
) -> list[str]:
    """Write a model's parameters and stored buffers as safetensors; tied ones once.

    Args:
        model: not modified.
        folder: an existing one.
        layout: how the files shall call its parameters.
        dtype: floating-point type to store them in; None keeps theirs.
        shard_bytes: from this size on there are several files and an index.

    Returns:
        The names of the files, in the order in which they should appear.
    """
    seen: set[int] = set()
    named: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            named[layout.published(name)] = tensor.detach()
    named = layout.to_files(named)
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for key, tensor in named.items():
        kept = dtype is None or not tensor.dtype.is_floating_point
        count = tensor.numel() * (tensor if kept else torch.empty(0, dtype=dtype)).element_size()
        if shards[-1] and size + count > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size, total = size + count, total + count
    files = [WEIGHTS]
    if len(shards) > 1:
        files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):  # converted a file at a time
        stored = {
            key: tensor.to(dtype if tensor.dtype.is_floating_point else None).contiguous()
            for key, tensor in shard.items()
        }
        save_file(stored, Path(folder, file), metadata={"format": "pt"})
    if len(shards) > 1:
        weight_map = {key: file for file, shard in zip(files, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        files.append(WEIGHTS + ".index.json")
        Path(folder, files[-1]).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def read_stored(folder: str | os.PathLike[str]) -> Iterator[StoredTensor]:
    """What a folder's files hold, file by file.

    Raises:
        FileNotFoundError, ValueError: as for :func:`load_weights`.
    """
    for file in _files(folder):
        yield from _read(file)


def _read_bytes(
    key: str, shape: tuple[int, ...], dtype: torch.dtype, file: Path, offset: int
) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    data = tensor.reshape(-1).view(torch.uint8).numpy()
    # Not through mmap: its pages would count as memory beside the copy.
    with file.open("rb") as stream:
        stream.seek(offset)
        if stream.readinto(data.data) < data.size:
            raise ValueError(f"model: {str(file)!r} ends inside of tensor {key!r}")
    return tensor


def _replace(model: nn.Module, names: list[str], old: Tensor, value: Tensor) -> None:
    device = torch.device("cpu") if old.is_meta else old.device
    value = value.to(device, old.dtype)
    if isinstance(old, nn.Parameter):
        value = nn.Parameter(value, requires_grad=old.requires_grad)
    for name in names:
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, value)


def _files(folder: str | os.PathLike[str]) -> list[Path]:
    root = Path(folder)
    if root.is_file():
        return [root]
    for name in (WEIGHTS, _PICKLED):
        if (root / name).is_file():
            return [root / name]
        index = root / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise FileNotFoundError(f"model: {os.fspath(folder)!r} has no {WEIGHTS} and no {_PICKLED}")


def _shards(index: Path) -> list[Path]:
    text = index.read_bytes() if index.stat().st_size <= _MAX_JSON_BYTES else b""
    weight_map = _json_object(text, index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"model: {str(index)!r} must have an object 'weight_map'")
    files = []
    for key, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(
                f"model: {str(index)!r}: the file of {key!r} must be in the same folder, "
                f"got {name!r}"
            )
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"model: {str(index)!r} names {name!r}, which is missing")
        if index.parent / name not in files:
            files.append(index.parent / name)
    return files


def _read(file: Path) -> Iterator[StoredTensor]:
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickled(file)


def _read_safetensors(file: Path) -> Iterator[StoredTensor]:
    """Tensors of a file: 8 bytes of header length, a JSON header, then the data."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_JSON_BYTES):
            raise ValueError(f"model: {str(file)!r} is cut off, or no safetensors file")
        header = _json_object(stream.read(length), file)
    header.pop("__metadata__", None)
    for key, entry in header.items():
        try:
            dtype, shape = _DTYPES[entry["dtype"]], tuple(int(side) for side in entry["shape"])
            begin, end = (8 + length + int(offset) for offset in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"model: {str(file)!r}: the entry of {key!r} is damaged") from error
        item = torch.empty(0, dtype=dtype).element_size()
        if min(shape, default=0) < 0 or begin < 8 + length:
            raise ValueError(f"model: {str(file)!r}: the entry of {key!r} is damaged")
        if end - begin != math.prod(shape) * item:
            raise ValueError(
                f"model: {str(file)!r}: {key!r} of shape {shape} must have "
                f"{math.prod(shape) * item} bytes, got {end - begin}"
            )
        if end > size:
            raise ValueError(f"model: {str(file)!r} is cut off: it ends before {key!r} does")
        yield StoredTensor(
            key, shape, dtype, file, partial(_read_bytes, key, shape, dtype, file, begin)
        )


def _read_pickled(file: Path) -> Iterator[StoredTensor]:
    try:
        values: Any = torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"model: {str(file)!r} holds more than tensors, or is damaged; it was not executed "
            f"({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"model: {str(file)!r} is damaged ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"model: {str(file)!r} must hold a dictionary of tensors")
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"model: {str(file)!r}: {key!r} must be a tensor")
        yield StoredTensor(key, tuple(value.shape), value.dtype, file, partial(_same, value))


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _json_object(text: bytes, file: Path) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:  # both bad UTF-8 and bad JSON
        raise ValueError(f"model: {str(file)!r} is damaged: no valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"model: {str(file)!r} is damaged: no JSON object")
    return values
