"""The layout in which keys and values are kept for ``decode_attention``, and how tokens enter it.

    keys   [S, KV, capacity / 16, D / 2, 16, 2]  keys[s, h, b, d, j, e] = k[s, h, 16 b + j, 2 d + e]
    values [S, KV, capacity / 16, 8, D, 2]     values[s, h, b, j, d, e] = v[s, h, 16 b + 2 j + e, d]

for ``S`` rows (places for a sequence) of ``capacity`` columns (places for a token), ``KV`` heads of
width ``D``. The innermost pairs are the two factors that one multiply-add of pairs takes, so that
sixteen scores, or a vector of output channels, grow side by side and no sum runs across a vector.
The layout is the same for every dtype and device. Of a row and head, tokens lie one behind the
other in blocks of sixteen, without gaps. Columns that nobody has written may hold anything.

``append_kv_`` writes tokens, a prompt's as well as a step's; ``decode_attention`` can do the same
for the tokens that it attends from. ``unpack_kv`` gives plain ``[S, KV, capacity, D]`` back.

Dtypes: float32, float64, float16, bfloat16. A copy: bits are preserved. Not differentiable.
Deterministic, as long as no place is named twice. Devices: any (reference); see
``fastregion.ops.OPERATORS`` for kernels. Rows and columns outside of the buffers are refused on the
CPU; on other devices that would need a synchronisation, and the CUDA kernel writes nothing there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.checks import (
    FLOATING,
    check_floating,
    check_same_device,
    check_same_dtype,
    dtype_name,
    refuse_gradients,
)
from fastregion.ops.native import DTYPE_CODES, family, run, wrote_to
from fastregion.ops.registration import register

KV_BLOCK = 16
"""Columns of a block; capacities are multiples of it."""


def empty_kv(
    num_rows: int,
    num_kv_heads: int,
    capacity: int,
    head_dim: int,
    *,
    dtype: torch.dtype,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Allocate keys and values of ``num_rows`` sequences of up to ``capacity`` tokens.

    ``capacity`` is rounded up to whole blocks. Nothing is written: free columns may hold anything.

    Raises:
        ValueError: A head width that is not a multiple of 8.
    """
    if head_dim < 8 or head_dim % 8:
        raise ValueError(f"empty_kv: head_dim must be a multiple of 8, got {head_dim}")
    blocks = (capacity + KV_BLOCK - 1) // KV_BLOCK
    leading = (num_rows, num_kv_heads, blocks)
    keys = torch.empty(*leading, head_dim // 2, KV_BLOCK, 2, dtype=dtype, device=device)
    values = torch.empty(*leading, KV_BLOCK // 2, head_dim, 2, dtype=dtype, device=device)
    return keys, values


def grown_kv(keys: Tensor, values: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Copies of keys and values with room for ``capacity`` tokens, at least as many as now."""
    rows, heads, blocks, half_width = keys.shape[:4]
    grown = empty_kv(rows, heads, capacity, 2 * half_width, dtype=keys.dtype, device=keys.device)
    for old, new in zip((keys, values), grown, strict=True):
        new[:, :, :blocks] = old
    return grown


def unpack_kv(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Copy keys and values to plain tensors ``[S, KV, capacity, D]``."""
    return (
        keys.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3),
        values.permute(0, 1, 2, 3, 5, 4).flatten(2, 4),
    )


def check_kv(operator: str, keys: Tensor, values: Tensor, what: str = "") -> None:
    """Raise unless ``keys`` and ``values`` are buffers of the layout; ``what`` precedes names."""
    # Names and words cost more than the checks, so they are made up when a check has failed.
    dtype = keys.dtype
    if dtype not in FLOATING or dtype != values.dtype or keys.device != values.device:
        named = {f"{what}keys": keys, f"{what}values": values}
        check_floating(operator, **named)
        check_same_dtype(operator, **named)
        check_same_device(operator, **named)
    shape = keys.shape
    if len(shape) != 6 or shape[4:] != (KV_BLOCK, 2) or shape[3] < 4 or shape[3] % 4:
        raise ValueError(
            f"{operator}: {what}keys must be [S, KV, capacity / 16, D / 2, 16, 2], the width D "
            f"a multiple of 8, got shape {tuple(shape)}; empty_kv makes them"
        )
    expected = (*shape[:3], KV_BLOCK // 2, 2 * shape[3], 2)
    if values.shape != expected:
        raise ValueError(
            f"{operator}: {what}values must be [S, KV, capacity / 16, 8, D, 2] = {expected} with "
            f"these keys, got shape {tuple(values.shape)}"
        )
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError(f"{operator}: {what}keys and {what}values must be contiguous")


def check_integers(operator: str, shape: tuple[int, ...], **tensors: Tensor | None) -> None:
    """Raise unless every tensor is int32 or int64 of this shape."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype not in (torch.int32, torch.int64):
            raise TypeError(
                f"{operator}: {name} must be int32 or int64, got {dtype_name(tensor.dtype)}"
            )
        if tensor.shape != shape:
            raise ValueError(
                f"{operator}: {name} must be {list(shape)}, got shape {tuple(tensor.shape)}"
            )


def append_kv_reference_(
    keys: Tensor, values: Tensor, k_new: Tensor, v_new: Tensor, rows: Tensor, columns: Tensor
) -> None:
    """The definition, in plain torch: the formulas of the module, written at every token."""
    block, place = columns // KV_BLOCK, columns % KV_BLOCK
    keys[rows, :, block, :, place] = k_new.reshape(*k_new.shape[:2], keys.shape[3], 2)
    values[rows, :, block, place // 2, :, place % 2] = v_new


def append_kv_(
    keys: Tensor,
    values: Tensor,
    k_new: Tensor,
    v_new: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    backend: str | None = None,
) -> None:
    """Write tokens into the cache, in place.

    Args:
        keys: ``[S, KV, capacity / 16, D / 2, 16, 2]``, from ``empty_kv``.
        values: ``[S, KV, capacity / 16, 8, D, 2]``.
        k_new: ``[T, KV, D]`` keys of any tokens of any sequences.
        v_new: ``[T, KV, D]`` their values.
        rows: int32 or int64 ``[T]``, the row of every token.
        columns: int32 or int64 ``[T]``, the column of every token. No place may be named twice.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        TypeError: Dtypes other than the module lists, or that differ.
        ValueError: Shapes or devices that do not fit, gradients wanted, or (on the CPU) rows or
            columns outside of the buffers.
    """
    name = "append_kv_"
    check_kv(name, keys, values)
    check_new_tokens(name, k_new, v_new, keys)
    check_integers(name, (k_new.shape[0],), rows=rows, columns=columns)
    check_same_device(name, keys=keys, k_new=k_new, v_new=v_new, rows=rows, columns=columns)
    refuse_gradients(name, keys=keys, values=values, k_new=k_new, v_new=v_new)
    torch.ops.fastregion.append_kv_(keys, values, k_new, v_new, rows, columns, backend or "")


def check_new_tokens(operator: str, k_new: Tensor, v_new: Tensor, keys: Tensor) -> None:
    """Raise unless ``k_new`` and ``v_new`` are tokens for a cache with these keys."""
    if not keys.dtype == k_new.dtype == v_new.dtype:
        check_same_dtype(operator, k_new=k_new, v_new=v_new, keys=keys)
    kv_heads, width = keys.shape[1], 2 * keys.shape[3]
    shape = k_new.shape
    if len(shape) == 3 and shape[1:] == (kv_heads, width) and v_new.shape == shape:
        return
    for name, tensor in (("k_new", k_new), ("v_new", v_new)):
        if tensor.dim() != 3 or tensor.shape[1:] != (kv_heads, width):
            raise ValueError(
                f"{operator}: {name} must be [T, KV, D] = [T, {kv_heads}, {width}], "
                f"got shape {tuple(tensor.shape)}"
            )
    if k_new.shape != v_new.shape:
        raise ValueError(
            f"{operator}: k_new and v_new must have the same shape, "
            f"got {tuple(k_new.shape)} and {tuple(v_new.shape)}"
        )


def token_heads(tensor: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """View ``[T, H, D]`` with contiguous heads; copies only if it must.

    Returns:
        The tensor to keep alive during the call; its address and strides over tokens and heads.
    """
    if tensor.stride(2) != 1:
        tensor = tensor.contiguous()
    return tensor, (tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


def _append(
    keys: Tensor,
    values: Tensor,
    k_new: Tensor,
    v_new: Tensor,
    rows: Tensor,
    columns: Tensor,
    backend: str,
) -> None:
    chosen = choose_backend("append_kv_", keys.device, force=backend)
    rows, columns = rows.to(torch.int64).contiguous(), columns.to(torch.int64).contiguous()
    if chosen == "reference":
        _refuse_places_outside(keys, rows, columns)
        append_kv_reference_(keys, values, k_new, v_new, rows, columns)
        return
    k_new, new_keys = token_heads(k_new)
    v_new, new_values = token_heads(v_new)
    params = family("attention").AppendParams(
        DTYPE_CODES[keys.dtype],
        (keys.data_ptr(), values.data_ptr(), keys.shape[0], keys.shape[2]),
        new_keys,
        new_values,
        rows.data_ptr(),
        columns.data_ptr(),
        k_new.shape[0],
        keys.shape[1],
        k_new.shape[2],
    )
    run(chosen, "attention.append_kv", keys.device, params)
    wrote_to(keys, values)


def _refuse_places_outside(keys: Tensor, rows: Tensor, columns: Tensor) -> None:
    if rows.device.type != "cpu":
        return  # reading values back would synchronise
    capacity = KV_BLOCK * keys.shape[2]
    for token, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        if not (0 <= row < keys.shape[0] and 0 <= column < capacity):
            raise ValueError(
                f"append_kv_: rows must be below {keys.shape[0]} and columns below the capacity "
                f"{capacity}, got row {row} and column {column} for token {token}"
            )


def _append_fake(
    keys: Tensor,
    values: Tensor,
    k_new: Tensor,
    v_new: Tensor,
    rows: Tensor,
    columns: Tensor,
    backend: str,
) -> None:
    pass


register(
    "append_kv_(Tensor(a!) keys, Tensor(b!) values, Tensor k_new, Tensor v_new, Tensor rows, "
    "Tensor columns, str backend) -> ()",
    _append,
    _append_fake,
)
