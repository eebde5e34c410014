"""Packed prompts: one gather of rows from token embeddings and feature tokens.

    embeddings[r, :] = (embedding ++ tokens_1 ++ tokens_2 ++ ...)[rows[r], :]

``++`` is concatenation along the rows, which is never carried out: a row index below V is a token
id and reads the embedding matrix ``[V, D]``, the following ones read image tokens, replayed region
tokens, mask tokens. Prompts of different lengths lie one behind the other, without padding.

Two entries to one operator: ``pack_tokens`` makes the row index from token ids with placeholders
and returns everything a packed prompt needs; ``pack_rows`` takes the row index as it is (several
prompts may then share the same feature tokens).

Dtypes: float32, float64, float16, bfloat16, the same for all sources. A copy: bits are preserved.
The gradient scatters: it is summed in float32 (float64 for float64) over repeated rows, rounded
once. Differentiable in all sources, once. Deterministic, except that the reference's gradient on a
GPU follows torch's ``index_add_``. Autocast: none. Devices: any (reference); see
``fastregion.ops.OPERATORS`` for kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.checks import (
    accumulation_dtype,
    check_floating,
    check_same_device,
    check_same_dtype,
)
from fastregion.ops.native import DTYPE_CODES, as_rows, family, run
from fastregion.ops.registration import register, register_gradient

_MOST_CUDA_SOURCES = 16  # csrc/packing/pack_tokens.h


class PackedTokens(NamedTuple):
    """Prompts one behind the other.

    Attributes:
        embeddings: ``[total, D]``.
        cu_seqlens: int32 ``[B + 1]``; prompt b is rows ``cu_seqlens[b]`` to ``cu_seqlens[b + 1]``.
        positions: int64 ``[total]``, from 0 in every prompt.
        labels: int64 ``[total]``, or None where none were given.
    """

    embeddings: Tensor
    cu_seqlens: Tensor
    positions: Tensor
    labels: Tensor | None


def pack_rows_reference(sources: Sequence[Tensor], rows: Tensor) -> Tensor:
    """The definition, in plain torch (and with the concatenation that the kernels avoid)."""
    return torch.cat(list(sources)).index_select(0, rows)


def pack_rows_backward_reference(
    grad: Tensor, rows: Tensor, sizes: Sequence[int], wanted: Sequence[int]
) -> list[Tensor]:
    """Gradients ``[N_i, D]`` of the sources whose indices are in ``wanted``."""
    starts = list(accumulate(sizes, initial=0))
    gradients = []
    for source in wanted:
        inside = (rows >= starts[source]) & (rows < starts[source + 1])
        row = torch.where(inside, rows - starts[source], sizes[source])  # one row more, for others
        out = grad.new_zeros(
            (sizes[source] + 1, grad.shape[1]), dtype=accumulation_dtype(grad.dtype)
        )
        out.index_add_(0, row, grad.to(out.dtype))
        gradients.append(out[:-1].to(grad.dtype))
    return gradients


def pack_rows(sources: Sequence[Tensor], rows: Tensor, *, backend: str | None = None) -> Tensor:
    """Gather rows from several sources as if they were concatenated.

    Args:
        sources: Tensors ``[N_i, D]``.
        rows: int64 ``[total]`` row numbers in the concatenation of the sources.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``[total, D]``.

    Raises:
        TypeError: Dtypes other than the module lists, or that differ.
        ValueError: Shapes or devices that do not fit, or (on the CPU) a row number outside the
            sources.
    """
    name = "pack_tokens"
    if not sources:
        raise ValueError(f"{name}: sources must hold at least one tensor, got none")
    named = {f"sources[{i}]": source for i, source in enumerate(sources)}
    for what, source in named.items():
        if source.dim() != 2 or source.shape[1] != sources[0].shape[1]:
            raise ValueError(
                f"{name}: {what} must be [N, D] with the D of sources[0], "
                f"got shape {tuple(source.shape)}"
            )
    if rows.dim() != 1 or rows.dtype != torch.int64:
        raise (ValueError if rows.dim() != 1 else TypeError)(
            f"{name}: rows must be int64 [total], got {rows.dtype} {tuple(rows.shape)}"
        )
    check_floating(name, **named)
    check_same_dtype(name, **named)
    check_same_device(name, **named, rows=rows)
    out: Tensor = torch.ops.fastregion.pack_tokens(list(sources), rows, backend or "")
    return out


def pack_tokens(
    input_ids: Sequence[Tensor | Sequence[int]],
    embedding: Tensor,
    tokens: Mapping[int, Tensor] | None = None,
    *,
    labels: Sequence[Tensor | Sequence[int]] | None = None,
    backend: str | None = None,
) -> PackedTokens:
    """Embed prompts and put feature tokens in the place of their placeholders.

    Args:
        input_ids: One prompt each: token ids ``[L_b]``, on the host (ids on a device are copied
            back, which waits for it).
        embedding: ``[V, D]`` token embedding matrix.
        tokens: For every placeholder id the tokens ``[..., D]`` that take its places: the k-th
            placeholder, counted through all prompts in order, becomes the k-th token (leading
            dimensions in row-major order). A placeholder id may lie outside the vocabulary.
        labels: Like ``input_ids``: the id to predict at each place, -100 where there is none.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        The packed prompts, on the device of ``embedding``.

    Raises:
        TypeError: Dtypes that do not fit.
        ValueError: A number of placeholders that differs from the number of tokens, an id outside
            the vocabulary, labels of another length than the ids, or shapes and devices that do
            not fit.
    """
    name = "pack_tokens"
    if embedding.dim() != 2:
        raise ValueError(f"{name}: embedding must be [V, D], got shape {tuple(embedding.shape)}")
    tokens = tokens or {}
    for placeholder, rows in tokens.items():
        if rows.dim() < 2 or rows.shape[-1] != embedding.shape[1]:
            raise ValueError(
                f"{name}: tokens[{placeholder}] must be [..., {embedding.shape[1]}], "
                f"got shape {tuple(rows.shape)}"
            )
    ids, lengths = _concatenated("input_ids", input_ids)
    rows = _row_index(ids, lengths, embedding.shape[0], tokens)
    sources = [embedding, *(rows.flatten(0, -2) for rows in tokens.values())]
    device = embedding.device
    packed_labels = None
    if labels is not None:
        packed_labels, label_lengths = _concatenated("labels", labels)
        if label_lengths != lengths:
            raise ValueError(
                f"{name}: labels must have the lengths of input_ids {lengths}, got {label_lengths}"
            )
        packed_labels = packed_labels.to(device, non_blocking=True)
    cu_seqlens = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    starts = torch.repeat_interleave(
        cu_seqlens[:-1].long(), torch.tensor(lengths, dtype=torch.long)
    )
    positions = torch.arange(len(ids)) - starts
    return PackedTokens(
        pack_rows(sources, rows.to(device, non_blocking=True), backend=backend),
        cu_seqlens.to(device, non_blocking=True),
        positions.to(device, non_blocking=True),
        packed_labels,
    )


def _concatenated(
    what: str, sequences: Sequence[Tensor | Sequence[int]]
) -> tuple[Tensor, list[int]]:
    """All ids as one int64 tensor on the host, and the length of each sequence."""
    parts = [torch.as_tensor(sequence) for sequence in sequences]
    for number, part in enumerate(parts):
        if part.dim() != 1:
            raise ValueError(
                f"pack_tokens: {what}[{number}] must be [L], got shape {tuple(part.shape)}"
            )
        if part.numel() and (part.is_floating_point() or part.is_complex()):
            raise TypeError(f"pack_tokens: {what}[{number}] must hold integers, got {part.dtype}")
    host = [part.to("cpu", torch.int64) for part in parts]
    return torch.cat([torch.empty(0, dtype=torch.int64), *host]), [len(part) for part in parts]


def _row_index(
    ids: Tensor, lengths: list[int], vocabulary: int, tokens: Mapping[int, Tensor]
) -> Tensor:
    """Row of every place in the concatenation of the embedding matrix and the tokens."""
    rows = ids.clone()
    is_text = torch.ones_like(ids, dtype=torch.bool)
    start = vocabulary
    for placeholder, source in tokens.items():
        here = ids == placeholder
        count, available = int(here.sum()), source.shape[:-1].numel()
        if count != available:
            per_prompt = [int(part.sum()) for part in torch.split(here, lengths)]
            raise ValueError(
                f"pack_tokens: placeholder {placeholder} occurs {count} times in the prompts "
                f"{per_prompt} but {available} tokens were given"
            )
        rows[here] = torch.arange(start, start + count)
        is_text &= ~here
        start += count
    outside = is_text & ((ids < 0) | (ids >= vocabulary))
    if outside.any():
        place = int(outside.nonzero()[0, 0])
        raise ValueError(
            f"pack_tokens: token ids must be 0 to {vocabulary - 1} or placeholders "
            f"{list(tokens)}, got {int(ids[place])} at place {place} of the packed prompts"
        )
    return rows


def _forward(sources: list[Tensor], rows: Tensor, backend: str) -> Tensor:
    num_rows = sum(source.shape[0] for source in sources)
    _refuse_rows_outside(rows, num_rows)
    limit = None
    if rows.device.type == "cuda" and len(sources) > _MOST_CUDA_SOURCES:
        limit = f"the cuda kernel takes at most {_MOST_CUDA_SOURCES} sources, got {len(sources)}"
    chosen = choose_backend("pack_tokens", rows.device, force=backend, limit=limit)
    if chosen == "reference":
        return pack_rows_reference(sources, rows)
    out = _forward_fake(sources, rows, backend)
    kept = [as_rows(source) for source in sources]
    rows = rows.contiguous()
    size = out.element_size()
    params = family("packing").PackRowsParams(
        [
            (source.data_ptr(), original.shape[0], stride * size)
            for original, (source, stride) in zip(sources, kept, strict=True)
        ],
        rows.data_ptr(),
        out.data_ptr(),
        out.shape[0],
        out.shape[1] * size,
    )
    run(chosen, "packing.pack_rows", rows.device, params)
    return out


def _backward(
    grad: Tensor, rows: Tensor, sizes: list[int], wanted: list[int], backend: str
) -> list[Tensor]:
    chosen = choose_backend("pack_tokens_backward", grad.device, force=backend)
    if chosen == "reference":
        return pack_rows_backward_reference(grad, rows, sizes, wanted)
    out = _backward_fake(grad, rows, sizes, wanted, backend)
    starts = list(accumulate(sizes, initial=0))
    kept, stride = as_rows(grad)
    rows = rows.contiguous()
    for source, gradient in zip(wanted, out, strict=True):
        run(
            chosen,
            "packing.scatter_rows",
            grad.device,
            DTYPE_CODES[grad.dtype],
            kept.data_ptr(),
            stride,
            rows.data_ptr(),
            rows.shape[0],
            starts[source],
            gradient.data_ptr(),
            gradient.shape[0],
            grad.shape[1],
        )
    return out


def _refuse_rows_outside(rows: Tensor, num_rows: int) -> None:
    if rows.device.type != "cpu" or rows.numel() == 0:
        return  # reading values back would synchronise
    low, high = (int(bound) for bound in rows.aminmax())
    if low < 0 or high >= num_rows:
        raise ValueError(
            f"pack_tokens: rows must be 0 to {num_rows - 1} (rows of all sources), "
            f"got {low if low < 0 else high}"
        )


def _forward_fake(sources: list[Tensor], rows: Tensor, backend: str) -> Tensor:
    return sources[0].new_empty((rows.shape[0], sources[0].shape[1]))


def _backward_fake(
    grad: Tensor, rows: Tensor, sizes: list[int], wanted: list[int], backend: str
) -> list[Tensor]:
    return [grad.new_empty((sizes[source], grad.shape[1])) for source in wanted]


def _save_rows(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    sources, rows, ctx.backend = inputs
    ctx.sizes = [source.shape[0] for source in sources]
    ctx.save_for_backward(rows)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (rows,) = ctx.saved_tensors
    wanted = [i for i, needed in enumerate(ctx.needs_input_grad[0]) if needed]
    computed = torch.ops.fastregion.pack_tokens_backward(grad, rows, ctx.sizes, wanted, ctx.backend)
    gradients: list[Tensor | None] = [None] * len(ctx.sizes)
    for source, gradient in zip(wanted, computed, strict=True):
        gradients[source] = gradient
    return gradients, None, None


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    pass


def _refuse_second_gradient(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    raise NotImplementedError("pack_tokens: second derivatives are not supported")


register(
    "pack_tokens(Tensor[] sources, Tensor rows, str backend) -> Tensor", _forward, _forward_fake
)
register(
    "pack_tokens_backward(Tensor grad, Tensor rows, SymInt[] sizes, int[] wanted, str backend) "
    "-> Tensor[]",
    _backward,
    _backward_fake,
)
register_gradient("pack_tokens", _gradients, _save_rows)
register_gradient("pack_tokens_backward", _refuse_second_gradient, _keep_nothing)
