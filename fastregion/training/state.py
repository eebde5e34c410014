"""All that decides how a run goes on, as tensors by name and as JSON; and back.

Tensors of sharded models are put together on the first process, so that a state fits any number of
processes.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastregion.training.processes import gathered, sharded_like

__all__ = [
    "copy_into",
    "frozen_fingerprint",
    "load_optimizers",
    "load_weights",
    "optimizer_tensors",
    "random_state",
    "seed_everything",
    "set_random_state",
    "weight_tensors",
    "whole",
    "with_values",
]


def whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Tensors on the CPU, shards put together, which all processes must ask for together.

    Args:
        tensors: by name.
        keep: whether this process wants them; else it only takes part, and gets nothing.
    """
    result = {}
    for name, tensor in tensors.items():
        value = gathered(tensor)
        if keep:
            result[name] = value.detach().to("cpu").contiguous()
    return result


def weight_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The trained parameters and all stored buffers, by name."""
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    tied = _first_names(module)
    return {
        name: value
        for name, value in module.state_dict(keep_vars=True).items()
        if name not in frozen and tied.get(id(value), name) == name
    }


def load_weights(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give them the values of a state.

    Raises:
        ValueError: names or shapes are not those of the module.
    """
    copy_into(weight_tensors(module), values)


@torch.no_grad()
def copy_into(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Give tensors, sharded or not, the values that a file has for their names.

    Raises:
        ValueError: other names, or other shapes.
    """
    if different := sorted(own.keys() ^ values.keys()):
        where = "lacks" if different[0] in own else "has an unknown"
        raise ValueError(f"checkpoint: the file {where} {different[0]!r}")
    for name, tensor in own.items():
        tensor.copy_(_like(values[name], tensor, name))


def optimizer_tensors(
    module: nn.Module, optimizers: Iterable[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """The optimisers' memory, as ``parameter:key``."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"{names[parameter]}:{key}": value
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizers(
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    values: Mapping[str, Tensor],
) -> None:
    """Give the optimisers the memory of a state.

    Raises:
        ValueError: a parameter that none of them trains, or another shape.
    """
    parameters = dict(module.named_parameters())
    owner = {p: o for o in optimizers for group in o.param_groups for p in group["params"]}
    for label, value in values.items():
        name, _, key = label.rpartition(":")
        parameter = parameters.get(name)
        if parameter is None or parameter not in owner:
            raise ValueError(f"checkpoint: the optimiser has memory of {name!r}, which it lacks")
        # Counters are scalars; all else has the parameter's shape, and lies as it does.
        placed = _like(value, parameter, name) if value.ndim else value.to(parameter.device)
        owner[parameter].state[parameter][key] = placed


def random_state(device: torch.device) -> dict[str, Any]:
    """This process's random numbers, JSON-able."""
    # Libraries draw from numpy's old global generator: it must go on too.
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    version, numbers, gauss = random.getstate()
    state = {
        "torch": _text(torch.get_rng_state()),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "python": [version, list(numbers), gauss],
    }
    if device.type == "cuda":
        state["cuda"] = _text(torch.cuda.get_rng_state(device))
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """The inverse."""
    torch.set_rng_state(_bytes(state["torch"]))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(_bytes(state["cuda"]), device)


def seed_everything(seed: int, process: int) -> None:
    """Random numbers of a process, which no other process has."""
    first, second = np.random.SeedSequence([seed, process]).generate_state(2)
    torch.manual_seed(int(first))
    random.seed(int(second))
    np.random.seed(int(second))  # noqa: NPY002


def frozen_fingerprint(module: nn.Module) -> str:
    """A digest of a sample of each frozen parameter, which no checkpoint holds."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            sample = parameter.detach().flatten()[:64].cpu().double()
            digest.update(f"{name} {tuple(parameter.shape)} {sample.tolist()}".encode())
    return digest.hexdigest()


@contextmanager
def with_values(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """While it is entered, parameters and buffers are these plain tensors on the CPU."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    tied = _first_names(module)
    made: dict[str, nn.Parameter] = {}  # a parameter of two modules stays that of both
    for name, value in module.state_dict(keep_vars=True).items():
        owner, _, last = name.rpartition(".")
        part = module.get_submodule(owner)
        table: Any = part._parameters if last in part._parameters else part._buffers
        first = tied.get(id(value), name)
        before.append((table, last, table[last]))
        if table is part._parameters:
            new = nn.Parameter(values[first], requires_grad=value.requires_grad)
            table[last] = made.setdefault(first, new)
        else:
            table[last] = values[first]
    try:
        yield
    finally:
        for table, last, old in before:
            table[last] = old


def _first_names(module: nn.Module) -> dict[int, str]:
    """Of each parameter and buffer, one name: one that two modules share has two."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {id(value): name for name, value in named}


def _like(value: Tensor, tensor: Tensor, name: str) -> Tensor:
    """The value, on the device and in the shards of a tensor."""
    if value.shape != tensor.shape:
        raise ValueError(
            f"checkpoint: {name!r} must have shape {tuple(tensor.shape)}, got {tuple(value.shape)}"
        )
    value = value.to(tensor.device)
    return sharded_like(value, tensor)


def _text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
