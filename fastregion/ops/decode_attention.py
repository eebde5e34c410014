"""Attention of new tokens against preallocated keys and values: the inner step of generation.

    out[t, h] = sum over j of softmax_j(scale * q[t, h] . k[j, h // group]) v[j, h // group]
    logsumexp[t, h] = log(sum over j of exp(scale * q[t, h] . k[j, h // group]))

over what token t sees: the shared prefix of its sequence, if it has one, then the columns of its
own row. ``q`` is ``[T, H, D]``; keys and values lie in the layout of ``attention_cache.py`` with
``KV`` heads, and ``group = H / KV`` query heads share one of them.

Sequence s lies in row ``rows[s]`` and is ``lengths[s]`` columns long, its new tokens included: they
are the last ``n_s``. Token i of these sees the columns below ``lengths[s] - n_s + i + 1``. Without
``cu_seqlens_q`` every sequence has one new token (``T = N``), which sees its whole row. With
``k_new`` and ``v_new`` the new tokens are first written to their columns, in the same pass.

A prefix is a second cache, whose rows are shared: sequence s sees the whole of row ``of[s]`` before
its own columns. The sequences of a group read every key and value of their prefix once, together;
the parts are merged by their logsumexp, exactly up to rounding. Keys hold their positions already
(rotary embeddings are applied before), so a prefix needs no more than that.

A token that sees nothing gets 0, with logsumexp -inf. What lies in columns that a token does not
see, NaN included, never reaches its result.

Dtypes: float32, float64, float16, bfloat16, the same for queries and caches; logsumexp is float32
(float64 for float64). Numerics: scores, weights and sums in float32 (float64 for float64), rounded
once; a CPU with products of bfloat16 pairs rounds the weights too. Not differentiable: an operator
for inference. Autocast: none. Deterministic. Devices: any (reference); see
``fastregion.ops.OPERATORS`` for kernels. Lengths, rows and groups are read where they are: on the
CPU wrong ones are refused; on CUDA, where the host reads nothing and a step can be captured in a
graph, lengths are cut to the capacity and a row or group outside counts as empty.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastregion.ops.attention_cache import (
    KV_BLOCK,
    append_kv_reference_,
    check_integers,
    check_kv,
    check_new_tokens,
    token_heads,
    unpack_kv,
)
from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.checks import (
    accumulation_dtype,
    check_same_device,
    check_same_dtype,
    dtype_name,
    refuse_gradients,
)
from fastregion.ops.native import DTYPE_CODES, family, run, wrote_to
from fastregion.ops.registration import register

# csrc/attention/decode_attention.cu
_WIDEST_CUDA_HEAD = 256
_CUDA_LOAD = 16  # bytes, of keys and values


class SharedPrefix(NamedTuple):
    """Keys and values that groups of sequences see before their own.

    Attributes:
        keys: ``[G, KV, capacity / 16, D / 2, 16, 2]``, one row per prefix.
        values: ``[G, KV, capacity / 16, 8, D, 2]``.
        lengths: int32 ``[G]``, columns of each prefix.
        of: int32 ``[N]``, the prefix of each sequence, or -1 for none.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    of: Tensor


def decode_attention_reference(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    cu_seqlens_q: Tensor | None,
    rows: Tensor | None,
    prefix: SharedPrefix | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The definition, in plain torch; every backend is held to it (float64 stays float64)."""
    dtype = accumulation_dtype(q.dtype)
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    logsumexp = q.new_empty(q.shape[:2], dtype=dtype)
    num_sequences = lengths.shape[0]
    bounds = range(num_sequences + 1) if cu_seqlens_q is None else cu_seqlens_q.tolist()
    places = range(num_sequences) if rows is None else rows.tolist()
    for s, (row, length) in enumerate(zip(places, lengths.tolist(), strict=True)):
        k, v = _tokens(keys, values, row, length)  # [KV, length, D]
        before = 0
        if prefix is not None and (group := int(prefix.of[s])) >= 0:
            before = int(prefix.lengths[group])
            prefix_k, prefix_v = _tokens(prefix.keys, prefix.values, group, before)
            k, v = torch.cat((prefix_k, k), dim=1), torch.cat((prefix_v, v), dim=1)
        for t in range(bounds[s], bounds[s + 1]):
            seen = before + max(length - (bounds[s + 1] - t) + 1, 0)
            query = q[t].to(dtype).reshape(k.shape[0], -1, k.shape[2])  # [KV, group, D]
            scores = scale * query @ k[:, :seen].to(dtype).mT
            logsumexp[t] = scores.logsumexp(-1).flatten()
            weights = scores.softmax(-1)
            weights[(scores == -torch.inf).all(-1)] = 0  # nothing to see there, as without columns
            out[t] = (weights @ v[:, :seen].to(dtype)).flatten(0, 1).to(q.dtype)
    return out, logsumexp


def _tokens(keys: Tensor, values: Tensor, row: int, length: int) -> tuple[Tensor, Tensor]:
    """Plain ``[KV, length, D]`` keys and values of one row."""
    k, v = unpack_kv(keys[row : row + 1], values[row : row + 1])
    return k[0, :, :length], v[0, :, :length]


def decode_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    *,
    cu_seqlens_q: Tensor | None = None,
    rows: Tensor | None = None,
    scale: float | None = None,
    prefix: SharedPrefix | None = None,
    k_new: Tensor | None = None,
    v_new: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend from new tokens to everything before them in a cache.

    Args:
        q: ``[T, H, D]`` queries, the new tokens of all sequences one behind the other.
        keys: ``[S, KV, capacity / 16, D / 2, 16, 2]``, see ``empty_kv``; ``KV`` divides ``H``.
        values: ``[S, KV, capacity / 16, 8, D, 2]``.
        lengths: int32 ``[N]``, columns of each sequence, its new tokens included.
        cu_seqlens_q: int32 ``[N + 1]``, where the new tokens of each sequence begin; left out, each
            has one.
        rows: int32 or int64 ``[N]``, the row of each sequence; left out, the first ``N`` rows.
        scale: Factor of the scores, ``1 / sqrt(D)`` when left out.
        prefix: Keys and values that groups of sequences share.
        k_new: ``[T, KV, D]`` keys of the new tokens, written to ``keys`` first; then no two
            sequences may lie in one row. Left out when they have been written already.
        v_new: ``[T, KV, D]`` their values.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``[T, H, D]`` in the dtype of ``q``, and the logsumexp of the scores ``[T, H]``.

    Raises:
        TypeError: Dtypes other than the module lists, or that differ.
        ValueError: Shapes or devices that do not fit, gradients wanted, or (on the CPU) lengths
            beyond the capacity, rows, groups or boundaries that do not exist.
        NotImplementedError: CUDA by name, for heads wider than 256 or caches that do not begin at
            multiples of 16 bytes.
    """
    name = "decode_attention"
    check_kv(name, keys, values)
    width = 2 * keys.shape[3]
    if q.dim() != 3 or q.shape[2] != width:
        raise ValueError(f"{name}: q must be [T, H, D] with D = {width}, got {tuple(q.shape)}")
    if keys.shape[1] == 0 or q.shape[1] % keys.shape[1]:
        raise ValueError(
            f"{name}: the heads of q must be a multiple of the {keys.shape[1]} heads of keys, "
            f"got {q.shape[1]}"
        )
    if q.dtype != keys.dtype:
        check_same_dtype(name, q=q, keys=keys)
    _check_sequences(name, q, keys, lengths, cu_seqlens_q, rows)
    if (k_new is None) != (v_new is None):
        raise ValueError(f"{name}: k_new and v_new must be given together, got one of them")
    shared: list[Tensor] = []
    if prefix is not None:
        _check_prefix(name, prefix, keys, lengths.shape[0])
        shared = list(prefix)
    others = (keys, lengths, cu_seqlens_q, rows, k_new, v_new)
    if any(tensor is not None and tensor.device != q.device for tensor in others):
        check_same_device(
            name, q=q, keys=keys, lengths=lengths, cu_seqlens_q=cu_seqlens_q, rows=rows,
            k_new=k_new, v_new=v_new,
        )  # fmt: skip
    refuse_gradients(name, q=q, keys=keys, values=values, k_new=k_new, v_new=v_new)
    settings = (cu_seqlens_q, rows, shared, width**-0.5 if scale is None else scale, backend or "")
    result: tuple[Tensor, Tensor]
    if k_new is None or v_new is None:
        result = torch.ops.fastregion.decode_attention(q, keys, values, lengths, *settings)
    else:
        check_new_tokens(name, k_new, v_new, keys)
        if k_new.shape[0] != q.shape[0]:
            raise ValueError(
                f"{name}: k_new must hold the {q.shape[0]} tokens of q, got {k_new.shape[0]}"
            )
        result = torch.ops.fastregion.decode_attention_(
            q, keys, values, k_new, v_new, lengths, *settings
        )
    return result


def _check_sequences(
    operator: str,
    q: Tensor,
    keys: Tensor,
    lengths: Tensor,
    cu_seqlens_q: Tensor | None,
    rows: Tensor | None,
) -> None:
    _check_int32(operator, lengths=lengths, cu_seqlens_q=cu_seqlens_q)
    if lengths.dim() != 1:
        raise ValueError(f"{operator}: lengths must be [N], got shape {tuple(lengths.shape)}")
    num_sequences = lengths.shape[0]
    check_integers(operator, (num_sequences,), rows=rows)
    if rows is None and num_sequences > keys.shape[0]:
        raise ValueError(
            f"{operator}: without rows there must be at most as many lengths as rows in keys, "
            f"{keys.shape[0]}, got {num_sequences}"
        )
    if cu_seqlens_q is None:
        if q.shape[0] != num_sequences:
            raise ValueError(
                f"{operator}: without cu_seqlens_q there must be one token for each of the "
                f"{num_sequences} lengths, got {q.shape[0]} in q"
            )
    elif cu_seqlens_q.shape != (num_sequences + 1,):
        raise ValueError(
            f"{operator}: cu_seqlens_q must be [N + 1] = [{num_sequences + 1}], "
            f"got shape {tuple(cu_seqlens_q.shape)}"
        )


def _check_prefix(operator: str, prefix: SharedPrefix, keys: Tensor, num_sequences: int) -> None:
    check_kv(operator, prefix.keys, prefix.values, "prefix.")
    if (prefix.keys.shape[1], prefix.keys.shape[3]) != (keys.shape[1], keys.shape[3]):
        raise ValueError(
            f"{operator}: prefix.keys must have the heads and width of keys, {keys.shape[1]} and "
            f"{2 * keys.shape[3]}, got {prefix.keys.shape[1]} and {2 * prefix.keys.shape[3]}"
        )
    check_integers(operator, (prefix.keys.shape[0],), **{"prefix.lengths": prefix.lengths})
    check_integers(operator, (num_sequences,), **{"prefix.of": prefix.of})
    _check_int32(operator, **{"prefix.lengths": prefix.lengths, "prefix.of": prefix.of})
    if prefix.keys.dtype != keys.dtype:
        check_same_dtype(operator, **{"prefix.keys": prefix.keys}, keys=keys)
    if any(tensor.device != keys.device for tensor in prefix):
        parts = {f"prefix.{name}": tensor for name, tensor in prefix._asdict().items()}
        check_same_device(operator, **parts, keys=keys)


def _check_int32(operator: str, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype != torch.int32:
            raise TypeError(f"{operator}: {name} must be int32, got {dtype_name(tensor.dtype)}")


def _attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    cu_seqlens_q: Tensor | None,
    rows: Tensor | None,
    prefix: list[Tensor],
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _attend_from(
        q, keys, values, None, None, lengths, cu_seqlens_q, rows, prefix, scale, backend
    )


def _append_and_attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    k_new: Tensor,
    v_new: Tensor,
    lengths: Tensor,
    cu_seqlens_q: Tensor | None,
    rows: Tensor | None,
    prefix: list[Tensor],
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _attend_from(
        q, keys, values, k_new, v_new, lengths, cu_seqlens_q, rows, prefix, scale, backend
    )


def _attend_from(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    k_new: Tensor | None,
    v_new: Tensor | None,
    lengths: Tensor,
    cu_seqlens_q: Tensor | None,
    rows: Tensor | None,
    prefix: list[Tensor],
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    limit = _cuda_limit(q, keys, values, *prefix[:2]) if q.device.type == "cuda" else None
    chosen = choose_backend("decode_attention", q.device, force=backend, limit=limit)
    lengths = lengths.contiguous()
    cu_seqlens_q = None if cu_seqlens_q is None else cu_seqlens_q.contiguous()
    rows = None if rows is None else _int32_rows(rows, keys.shape[0])
    if chosen != "reference":
        return _run(
            chosen, q, keys, values, k_new, v_new, lengths, cu_seqlens_q, rows, prefix, scale
        )
    shared = SharedPrefix(*prefix) if prefix else None
    _refuse_bad_numbers(q, keys, lengths, cu_seqlens_q, rows, shared, appends=k_new is not None)
    if k_new is not None and v_new is not None:
        places = _new_places(lengths, cu_seqlens_q, rows)
        append_kv_reference_(keys, values, k_new, v_new, *places)
    return decode_attention_reference(q, keys, values, lengths, cu_seqlens_q, rows, shared, scale)


def _cuda_limit(q: Tensor, *caches: Tensor) -> str | None:
    """Why the CUDA kernel does not take these tensors, if so."""
    if q.shape[2] > _WIDEST_CUDA_HEAD:
        return f"the cuda kernel takes heads of at most {_WIDEST_CUDA_HEAD}, got {q.shape[2]}"
    if any(cache.data_ptr() % _CUDA_LOAD for cache in caches):
        return f"the cuda kernel takes caches that begin at multiples of {_CUDA_LOAD} bytes"
    return None


def _int32_rows(rows: Tensor, num_rows: int) -> Tensor:
    """Rows as kernels read them; int64 ones that do not exist must not become others that do."""
    if rows.dtype == torch.int64:
        if rows.device.type == "cpu":
            _refuse_outside("rows", rows, 0, num_rows - 1)
        else:
            rows = rows.clamp(-1, num_rows)
    return rows.to(torch.int32).contiguous()


def _new_places(
    lengths: Tensor, cu_seqlens_q: Tensor | None, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows and columns ``[T]`` of the new tokens."""
    counts = torch.ones_like(lengths) if cu_seqlens_q is None else cu_seqlens_q.diff()
    sequence = torch.arange(len(counts), device=lengths.device).repeat_interleave(counts)
    to_end = counts.cumsum(0)[sequence] - torch.arange(len(sequence), device=lengths.device)
    return sequence if rows is None else rows.long()[sequence], lengths[sequence] - to_end


def _run(
    backend: str,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    k_new: Tensor | None,
    v_new: Tensor | None,
    lengths: Tensor,
    cu_seqlens_q: Tensor | None,
    rows: Tensor | None,
    prefix: list[Tensor],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Call the native kernel with the contract of csrc/attention/decode_attention.h."""
    out, logsumexp = _empty_results(q)
    q, queries = token_heads(q)
    new_keys = new_values = (0, 0, 0)
    if k_new is not None and v_new is not None:
        k_new, new_keys = token_heads(k_new)
        v_new, new_values = token_heads(v_new)
    if prefix:
        prefix = prefix[:2] + [numbers.contiguous() for numbers in prefix[2:]]  # alive to the end
    params = family("attention").DecodeAttentionParams(
        DTYPE_CODES[q.dtype],
        queries,
        out.data_ptr(),
        logsumexp.data_ptr(),
        _cache(keys, values),
        new_keys,
        new_values,
        lengths.data_ptr(),
        0 if cu_seqlens_q is None else cu_seqlens_q.data_ptr(),
        0 if rows is None else rows.data_ptr(),
        _cache(*prefix[:2]) if prefix else (0, 0, 0, 0),
        *((tensor.data_ptr() for tensor in prefix[2:]) if prefix else (0, 0)),
        lengths.shape[0],
        q.shape[0],
        q.shape[1],
        keys.shape[1],
        q.shape[2],
        scale,
    )
    size = run(backend, "attention.decode_attention_workspace", q.device, params)
    workspace = torch.empty(size, dtype=torch.uint8, device=q.device) if size else None
    address = 0 if workspace is None else workspace.data_ptr()
    run(backend, "attention.decode_attention", q.device, params, address)
    if k_new is not None:
        wrote_to(keys, values)
    return out, logsumexp


def _cache(keys: Tensor, values: Tensor) -> tuple[int, int, int, int]:
    return keys.data_ptr(), values.data_ptr(), keys.shape[0], keys.shape[2]


def _refuse_bad_numbers(
    q: Tensor,
    keys: Tensor,
    lengths: Tensor,
    cu_seqlens_q: Tensor | None,
    rows: Tensor | None,
    prefix: SharedPrefix | None,
    *,
    appends: bool,
) -> None:
    """The checks of csrc/attention/decode_attention.cpp, in its words."""
    if lengths.device.type != "cpu":
        return
    name, bounds = "decode_attention", list(range(len(lengths) + 1))
    if cu_seqlens_q is not None:
        bounds = cu_seqlens_q.tolist()
        if bounds[0] != 0 or bounds != sorted(bounds) or bounds[-1] != q.shape[0]:
            raise ValueError(
                f"{name}: cu_seqlens_q must rise from 0 to the {q.shape[0]} tokens of q"
            )
    _refuse_outside("lengths", lengths, 0, KV_BLOCK * keys.shape[2])
    if rows is not None:
        _refuse_outside("rows", rows, 0, keys.shape[0] - 1)
    if prefix is not None:
        _refuse_outside("prefix.lengths", prefix.lengths, 0, KV_BLOCK * prefix.keys.shape[2])
        _refuse_outside("prefix.of", prefix.of, -1, prefix.keys.shape[0] - 1)
    if not appends:
        return
    for s, length in enumerate(lengths.tolist()):
        if length < bounds[s + 1] - bounds[s]:
            raise ValueError(
                f"{name}: lengths count the new tokens, but sequence {s} has "
                f"{bounds[s + 1] - bounds[s]} of them and length {length}"
            )
    if rows is not None and len(set(rows.tolist())) < len(rows):
        raise ValueError(f"{name}: rows must differ where tokens are appended")


def _refuse_outside(what: str, numbers: Tensor, lowest: int, highest: int) -> None:
    for place, number in enumerate(numbers.tolist()):
        if not lowest <= number <= highest:
            raise ValueError(
                f"decode_attention: {what} must be {lowest} to {highest}, got {number} at {place}"
            )


def _empty_results(q: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    num_tokens, num_heads, _ = q.shape  # new_empty, or a torch.Size, take twice the time
    return out, torch.empty(num_tokens, num_heads, dtype=dtype, device=q.device)


def _attend_fake(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    cu_seqlens_q: Tensor | None,
    rows: Tensor | None,
    prefix: list[Tensor],
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _empty_results(q)


def _append_and_attend_fake(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    k_new: Tensor,
    v_new: Tensor,
    lengths: Tensor,
    cu_seqlens_q: Tensor | None,
    rows: Tensor | None,
    prefix: list[Tensor],
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _empty_results(q)


_REST = (
    "Tensor lengths, Tensor? cu_seqlens_q, Tensor? rows, Tensor[] prefix, float scale, str backend"
    ") -> (Tensor, Tensor)"
)

register(f"decode_attention(Tensor q, Tensor keys, Tensor values, {_REST}", _attend, _attend_fake)
register(
    "decode_attention_(Tensor q, Tensor(a!) keys, Tensor(b!) values, Tensor k_new, Tensor v_new, "
    f"{_REST}",
    _append_and_attend,
    _append_and_attend_fake,
)
