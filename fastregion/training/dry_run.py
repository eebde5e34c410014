"""What a recipe would do, found out without training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastregion.training.data import Records
from fastregion.training.loading import checked_rows, open_batches
from fastregion.training.recipe import Recipe
from fastregion.training.systems import build_task
from fastregion.training.task import Task

__all__ = ["DryRun", "dry_run"]

_FLOAT = 4  # bytes of a float32, which weights, gradients and optimiser are
_COPIES = {"adamw": 2, "muon": 1}  # of a parameter, in the optimiser's memory; Muon's least


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What was found out.

    Attributes:
        trained: numbers of trained weights by names, in which ``*`` stands for any index.
        frozen: the same of frozen ones.
        memory: bytes by purpose, on a single process.
        memory_notes: how they were computed.
        rows: what the look at the rows told; None where the system makes its own.
        texts: the samples of one batch, what is learned between ``[[`` and ``]]``.
        tokens: decoder tokens of that batch.
    """

    trained: Mapping[str, int]
    frozen: Mapping[str, int]
    memory: Mapping[str, int]
    memory_notes: str
    rows: str | None
    texts: tuple[str, ...]
    tokens: int


def dry_run(recipe: Recipe, *, task: Task | None = None) -> DryRun:
    """Build what a recipe trains, look at its rows, and run one batch forward on the CPU.

    Args:
        recipe: not trained.
        task: what is trained, where it is not the recipe's system that makes it.

    Raises:
        ValueError, FileNotFoundError, ImportError: as for :func:`fastregion.training.train`.
    """
    rows, told = None, None
    if (found := checked_rows(recipe)) is not None:  # before weights are loaded
        records, report = found
        report.require(recipe.max_bad_share)
        rows, told = report.usable(records), report.summary()
    task = task or build_task(recipe)
    named = task.parameters()
    trained = {name: p for name, p in named.items() if p.requires_grad}
    texts, batch, tokens = _first_batch(task, recipe, rows)
    number = sum(p.numel() for p in trained.values())
    memory = {
        "weights": sum(p.numel() * p.element_size() for p in named.values()),
        "gradients": _FLOAT * number,
        "optimizer": _FLOAT * number * _COPIES[recipe.optimizer.name],
        "average": _FLOAT * number if recipe.ema is not None else 0,
        "activations": _kept_for_backward(task, recipe, batch),
    }
    return DryRun(
        trained=_by_pattern(trained),
        frozen=_by_pattern({k: p for k, p in named.items() if not p.requires_grad}),
        memory=memory,
        memory_notes=_notes(recipe),
        rows=told,
        texts=texts,
        tokens=tokens,
    )


def _first_batch(
    task: Task, recipe: Recipe, rows: Records | None
) -> tuple[tuple[str, ...], Any, int]:
    """The first batch as texts, itself, and its number of tokens."""
    batches = open_batches(
        task, replace(recipe, workers=0), rows, process=0, num_processes=1, collate=list
    )
    try:
        item = next(iter(batches))
    finally:
        batches.close()
    if rows is None:  # the system's own stream gives batches made
        return (task.decoded(item.batch),), item.batch, item.tokens
    texts = tuple(task.decoded(sample) for sample in item.batch)
    return texts, task.collate(item.batch), item.tokens


def _kept_for_backward(task: Task, recipe: Recipe, batch: Any) -> int:
    """Bytes that a forward pass leaves behind for the backward pass, beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in task.step.parameters()}
    kept: dict[int, int] = {}
    alive = []  # so that no memory is used, and counted, twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    device = next(task.step.parameters()).device
    dtype = recipe.autocast_dtype
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
    ):
        task.step.train()(batch.to(device))
    return sum(kept.values())


def _notes(recipe: Recipe) -> str:
    kind = {"adamw": "two copies of", "muon": "one to two copies of"}[recipe.optimizer.name]
    checkpointing = (
        "; what gradient checkpointing keeps at its borders and computes again is not in it"
        if recipe.gradient_checkpointing
        else ""
    )
    return (
        "weights as loaded; gradients float32, for what is trained; optimizer: "
        f"{kind} that; activations: what autograd keeps after the forward pass of the batch "
        f"below, measured{checkpointing}. Under FSDP the first four are divided by the processes."
    )


def _by_pattern(named: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """Numbers of weights by names, with ``*`` for indices."""
    counts: Counter[str] = Counter()
    for name, parameter in named.items():
        counts[re.sub(r"(?<=\.)\d+(?=\.)", "*", name)] += parameter.numel()
    return dict(counts)
