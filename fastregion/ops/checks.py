"""Argument checks shared by the operators: one wording for each kind of mistake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_floating(operator: str, **tensors: Tensor | None) -> None:
    """Raise TypeError unless every tensor has a floating dtype the operators compute in."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in FLOATING:
            raise TypeError(
                f"{operator}: {name} must be float32, float64, float16 or bfloat16, "
                f"got {dtype_name(tensor.dtype)}"
            )


def check_same_dtype(operator: str, **tensors: Tensor | None) -> None:
    """Raise TypeError unless all tensors share one dtype."""
    given = {name: tensor.dtype for name, tensor in tensors.items() if tensor is not None}
    if len(set(given.values())) > 1:
        raise TypeError(
            f"{operator}: {_listed(given)} must have the same dtype, "
            f"got {_listed(dtype_name(dtype) for dtype in given.values())}"
        )


def check_same_device(operator: str, **tensors: Tensor | None) -> None:
    """Raise ValueError unless all tensors live on one device."""
    given = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(given.values())) > 1:
        raise ValueError(
            f"{operator}: {_listed(given)} must be on the same device, "
            f"got {_listed(str(device) for device in given.values())}"
        )


def check_writable_rows(
    operator: str, name: str, out: Tensor, *, strided_channels: bool = False
) -> None:
    """Raise ValueError unless ``out [..., C]``, such as a slice, has each element in its own place.

    Channels must be contiguous too, unless they may be strided.
    """
    if out.is_contiguous() or out.numel() == 0:
        return
    sizes, strides = out.shape, out.stride()
    axes = [axis for axis in range(out.dim()) if sizes[axis] > 1]
    apart = strided_channels or sizes[-1] == 1 or strides[-1] == 1
    for axis in axes:  # a step along it must leave all that the smaller steps reach
        smaller = [other for other in axes if other != axis and strides[other] <= strides[axis]]
        apart = apart and strides[axis] > sum([(sizes[o] - 1) * strides[o] for o in smaller])
    if not apart:
        raise ValueError(
            f"{operator}: {name} must have {'' if strided_channels else 'contiguous channels and '}"
            f"rows apart from each other, got strides {tuple(strides)}"
        )


def refuse_gradients(
    operator: str, *, what: str = "this", instead: str = "", **tensors: Tensor | None
) -> None:
    """Raise ValueError if autograd would have to go through any of the tensors.

    ``what`` is for inference; ``instead`` names another way and ends in "or ".
    """
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            raise ValueError(
                f"{operator}: {what} is for inference, but {name} requires a gradient; "
                f"{instead}call it under torch.no_grad()"
            )


def _whole(value: Any) -> int | None:
    """Return an integer of any library as int, and None for anything else; a bool is no number."""
    if type(value) is int:
        return value
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def integer(operator: str, name: str, value: Any) -> int:
    """Return ``value``, an integer of any library, as int."""
    number = _whole(value)
    if number is None:
        raise TypeError(f"{operator}: {name} must be an integer, got {value!r}")
    return number


def positive_pair(operator: str, name: str, value: Sequence[int]) -> tuple[int, int]:
    """Return ``value`` as (height, width) or (rows, columns); both must be at least 1."""
    given = value if isinstance(value, (tuple, list)) else (value,)
    numbers = [_whole(part) for part in given]
    pair = [number for number in numbers if number is not None and number >= 1]
    if len(given) != 2 or len(pair) != 2:
        raise ValueError(f"{operator}: {name} must be two integers of at least 1, got {value!r}")
    return pair[0], pair[1]


def size_pair(operator: str, name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Return ``value`` as (height, width); one integer means a square."""
    number = _whole(value)
    pair = value if number is None else (number, number)
    return positive_pair(operator, name, pair)  # type: ignore[arg-type]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype that sums are formed in: float64 for float64, float32 for everything narrower."""
    return torch.promote_types(dtype, torch.float32)


def _listed(words: Iterable[str]) -> str:
    parts = list(words)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a dtype as users write it, without the module."""
    return str(dtype).removeprefix("torch.")
