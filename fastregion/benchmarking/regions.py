"""Run-length encoding, areas, boxes and overlaps of masks.

64 smooth blobs, and 16 masks of pure noise (the worst case for runs), all 1024 x 1024. Floors: a
decoded mask is 1 MiB as bytes and 128 KiB as bits, written once; noise has 8 MB of run lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from fastregion.benchmarking.measure import Case, Ways
from fastregion.benchmarking.peers import pycocotools_mask
from fastregion.regions import Region, iou, rle_area, rle_decode, rle_encode, rle_to_bbox
from fastregion.regions.rle import rle_from_bits

_SIDE = 1024
_COUNTS = {"blobs": 64, "noise": 16}

Data = dict[str, list[Any]]


@cache
def _data(kind: str) -> Data:
    """The masks in every form that is timed."""
    masks = _masks(kind)
    rles = [rle_encode(mask) for mask in masks]
    return {
        "masks": masks,
        "fortran": [np.asfortranarray(mask, np.uint8) for mask in masks],
        "rles": rles,
        "coco": [{**rle, "counts": rle["counts"].encode()} for rle in rles],
        "regions": [Region.from_rle(rle) for rle in rles],
    }


def _masks(kind: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    if kind == "noise":
        return [rng.random((_SIDE, _SIDE)) < 0.5 for _ in range(_COUNTS[kind])]
    y, x = np.mgrid[:_SIDE, :_SIDE]
    masks = []
    for phase in range(_COUNTS[kind]):
        center_y, center_x = rng.uniform(150, _SIDE - 150, 2)
        angle = np.arctan2(y - center_y, x - center_x)
        radius = rng.uniform(60, 300) * (1 + 0.2 * np.sin(5 * angle + phase))
        masks.append(np.hypot(y - center_y, x - center_x) < radius)
    return masks


def _each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [function(item) for item in items]


def _string(rle: Any) -> str:
    counts = rle["counts"]
    return counts.decode() if isinstance(counts, bytes) else counts


def _mask(result: Any) -> Any:
    return np.asarray(result.mask if isinstance(result, Region) else result, bool)


def _iou(coco: Any, data: Data) -> Any:
    return coco.iou(data["coco"], data["coco"], [0] * len(data["coco"]))


@dataclass(frozen=True, kw_only=True)
class _Function:
    """Ours, pycocotools' name and call, bytes per byte of bits, and the form to compare."""

    ours: Callable[[Data], Any]
    peer: str = "pycocotools"
    coco: Callable[[Any, Data], Any]
    bits: int  # how often the masks move, counted in bits per pixel
    comparable: Callable[[Any], Any]


_FUNCTIONS = {
    "rle_decode to bytes": _Function(
        ours=lambda data: _each(rle_decode, data["rles"]),
        coco=lambda coco, data: _each(coco.decode, data["coco"]),
        bits=8,
        comparable=partial(_each, _mask),
    ),
    "rle_decode of a list": _Function(
        ours=lambda data: rle_decode(data["rles"]),
        coco=lambda coco, data: coco.decode(data["coco"]),
        bits=8,
        comparable=lambda masks: masks if masks.dtype == bool else masks.transpose(2, 0, 1) != 0,
    ),
    "rle_decode to bits": _Function(
        ours=lambda data: _each(Region.from_rle, data["rles"]),
        peer="pycocotools, to bytes",
        coco=lambda coco, data: _each(coco.decode, data["coco"]),
        bits=1,
        comparable=partial(_each, _mask),
    ),
    "rle_encode from bytes": _Function(
        ours=lambda data: _each(rle_encode, data["masks"]),
        coco=lambda coco, data: _each(coco.encode, data["fortran"]),
        bits=8,
        comparable=partial(_each, _string),
    ),
    "rle_encode from bits": _Function(
        ours=lambda data: [rle_from_bits(*region.pixels()) for region in data["regions"]],
        peer="pycocotools, from bytes",
        coco=lambda coco, data: _each(coco.encode, data["fortran"]),
        bits=1,
        comparable=partial(_each, _string),
    ),
    "rle_area": _Function(
        ours=lambda data: _each(rle_area, data["rles"]),
        coco=lambda coco, data: coco.area(data["coco"]),
        bits=0,
        comparable=np.asarray,
    ),
    "rle_to_bbox": _Function(
        ours=lambda data: _each(rle_to_bbox, data["rles"]),
        coco=lambda coco, data: coco.toBbox(data["coco"]),
        bits=0,
        comparable=np.asarray,
    ),
    "iou of all pairs": _Function(
        ours=lambda data: iou(data["regions"]), coco=_iou, bits=1, comparable=np.asarray
    ),
}


def _make(name: str, kind: str, device: torch.device) -> Ways:
    function, data, coco = _FUNCTIONS[name], _data(kind), pycocotools_mask()
    peers = {function.peer: partial(function.coco, coco, data)} if coco else {}
    strings = sum(len(rle["counts"]) for rle in data["rles"])
    return Ways(
        ours=partial(function.ours, data),
        peers=peers,
        bytes=_COUNTS[kind] * _SIDE * _SIDE // 8 * function.bits + strings,
        comparable=function.comparable,
    )


CASES = tuple(
    Case(
        operator=name,
        shape=f"{count} masks of {_SIDE} x {_SIDE}, {kind}",
        dtype="bool",
        make=partial(_make, name, kind),
        devices=("cpu",),
    )
    for name in _FUNCTIONS
    for kind, count in _COUNTS.items()
)
