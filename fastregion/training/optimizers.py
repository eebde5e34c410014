"""Which parameters are updated by which rule: groups by name and by kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from fastregion.models.patterns import fits, require_fit
from fastregion.training.muon import Muon
from fastregion.training.recipe import Optimizer
from fastregion.training.task import Task

__all__ = ["build_optimizers", "set_learning_rate"]


def build_optimizers(task: Task, recipe: Optimizer) -> list[torch.optim.Optimizer]:
    """The optimisers of what a task trains: AdamW, and Muon before it where the recipe says so.

    Their groups hold ``lr_factor`` beside the usual keys.

    Raises:
        ValueError: a pattern that fits no parameter.
    """
    named = task.parameters()
    patterns = [*recipe.adamw_for, *(pattern for g in recipe.groups for pattern in g.match)]
    require_fit("optimizer", patterns, named)
    exempt = _without_decay(task.step, named, recipe.no_decay)
    embeddings = _parameters_of(task.step, _is_embedding)
    rules: dict[str, dict[tuple[float, float], dict[str, Any]]] = {"muon": {}, "adamw": {}}
    for name, parameter in named.items():
        if not parameter.requires_grad:
            continue
        group = next((group for group in recipe.groups if fits(name, group.match)), None)
        factor = 1.0 if group is None else group.lr_factor
        decay = 0.0 if id(parameter) in exempt else recipe.weight_decay
        if group is not None and group.weight_decay is not None:
            decay = group.weight_decay
        hidden = parameter.ndim > 1 and id(parameter) not in embeddings
        by_muon = recipe.name == "muon" and hidden and not fits(name, recipe.adamw_for)
        groups = rules["muon" if by_muon else "adamw"]
        empty = {"params": [], "lr_factor": factor, "weight_decay": decay}
        groups.setdefault((factor, decay), empty)["params"].append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    rate = recipe.learning_rate
    if rules["muon"]:
        optimizers.append(Muon(rules["muon"].values(), lr=rate, momentum=recipe.momentum))
    if rules["adamw"]:
        # Fused: one pass over the state; on CPUs the others are a Python loop over parameters.
        optimizers.append(
            torch.optim.AdamW(
                list(rules["adamw"].values()),
                lr=rate,
                betas=recipe.betas,
                eps=recipe.eps,
                fused=True,
            )
        )
    return optimizers


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Give every group the rate, times its factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]


def _without_decay(
    module: nn.Module, named: Mapping[str, nn.Parameter], kinds: Iterable[str]
) -> set[int]:
    """Which parameters (by id) are of a kind that does not decay."""
    found: set[int] = set()
    for kind in kinds:
        if kind == "norms":
            found |= _parameters_of(module, _is_norm)
        elif kind == "embeddings":
            found |= _parameters_of(module, _is_embedding)
        elif kind == "biases":
            found |= {id(p) for name, p in named.items() if name.rpartition(".")[2] == "bias"}
        else:
            found |= {id(p) for p in named.values() if p.ndim < 2}
    return found


def _parameters_of(module: nn.Module, wanted: Any) -> set[int]:
    modules = (part for part in module.modules() if wanted(part))
    return {id(p) for part in modules for p in part.parameters(recurse=False)}


def _is_norm(module: nn.Module) -> bool:
    # By name: every decoder of transformers has an RMSNorm class of its own.
    return "norm" in type(module).__name__.lower()


def _is_embedding(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)
