"""A gather of rows from several sources, the operator below ``pack_tokens``.

    out[r, :] = (sources[0] ++ sources[1] ++ ...)[rows[r], :]

``++`` is concatenation along the rows, which is never carried out. The in-place form for inference,
``out=``, leaves rows as they are where the row number is -1: feature tokens that an encoder has
written where they belong stay there, and only the other rows are copied.

Dtypes: float32, float64, float16, bfloat16, the same for all sources. A copy: bits are preserved.
The gradient scatters: it is summed in float32 (float64 for float64) over repeated rows, rounded
once. Differentiable in all sources, once (the in-place form: not). Deterministic, except that the
reference's gradient on a GPU follows torch's ``index_add_``. Autocast: none. Devices: any
(reference); see ``fastregion.ops.OPERATORS`` for kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.checks import (
    accumulation_dtype,
    check_floating,
    check_same_device,
    check_same_dtype,
    check_writable_rows,
    refuse_gradients,
)
from fastregion.ops.native import DTYPE_CODES, as_rows, family, run, wrote_to
from fastregion.ops.registration import refuse_second_gradient, register, register_gradient

IN_PLACE = -1
"""Row number of a row that stays as it is."""

_MOST_CUDA_SOURCES = 16  # csrc/packing/pack_tokens.h


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


def pack_rows(
    sources: Sequence[Tensor],
    rows: Tensor,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Gather rows from several sources as if they were concatenated.

    Args:
        sources: Tensors ``[N_i, D]``.
        rows: int64 ``[total]`` row numbers in the concatenation of the sources.
        out: ``[total, D]`` to write to, for inference. Where a row number is -1 it keeps its row.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``[total, D]``; ``out`` where that is given.

    Raises:
        TypeError: Dtypes other than the module lists, or that differ.
        ValueError: Shapes or devices that do not fit, gradients wanted through ``out``, or (on the
            CPU) a row number outside the sources.
    """
    name = "pack_rows"
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
    check_same_dtype(name, **named, out=out)
    check_same_device(name, **named, rows=rows, out=out)
    if out is None:
        packed: Tensor = torch.ops.fastregion.pack_rows(list(sources), rows, backend or "")
        return packed
    shape = (rows.shape[0], sources[0].shape[1])
    if out.shape != shape:
        raise ValueError(f"{name}: out must be [total, D] = {shape}, got shape {tuple(out.shape)}")
    check_writable_rows(name, "out", out)
    refuse_gradients(name, what="out", instead="leave it out, or ", out=out, **named)
    torch.ops.fastregion.pack_rows_(out, list(sources), rows, backend or "")
    return out


def _forward(sources: list[Tensor], rows: Tensor, backend: str) -> Tensor:
    _refuse_rows_outside(rows, sources, lowest=0)
    chosen = _choose(sources, rows, backend)
    if chosen == "reference":
        return pack_rows_reference(sources, rows)
    out = _forward_fake(sources, rows, backend)
    _run_forward(chosen, out, sources, rows, in_place=False)
    return out


def _forward_in_place(out: Tensor, sources: list[Tensor], rows: Tensor, backend: str) -> None:
    _refuse_rows_outside(rows, sources, lowest=IN_PLACE)
    chosen = _choose(sources, rows, backend)
    if chosen == "reference":
        here = (rows >= 0).nonzero().flatten()
        out.index_copy_(0, here, pack_rows_reference(sources, rows[here]))
    else:
        _run_forward(chosen, out, sources, rows, in_place=True)
        wrote_to(out)


def _choose(sources: list[Tensor], rows: Tensor, backend: str) -> str:
    limit = None
    if rows.device.type == "cuda" and len(sources) > _MOST_CUDA_SOURCES:
        limit = f"the cuda kernel takes at most {_MOST_CUDA_SOURCES} sources, got {len(sources)}"
    return choose_backend("pack_rows", rows.device, force=backend, limit=limit)


def _run_forward(
    backend: str, out: Tensor, sources: list[Tensor], rows: Tensor, *, in_place: bool
) -> None:
    """Call the native gather with the contract of csrc/packing/pack_tokens.h."""
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
        out.stride(0) * size,
        out.shape[0],
        out.shape[1] * size,
        in_place,
    )
    run(backend, "packing.pack_rows", rows.device, params)


def _backward(
    grad: Tensor, rows: Tensor, sizes: list[int], wanted: list[int], backend: str
) -> list[Tensor]:
    chosen = choose_backend("pack_rows_backward", grad.device, force=backend)
    if chosen == "reference":
        return pack_rows_backward_reference(grad, rows, sizes, wanted)
    out = _backward_fake(grad, rows, sizes, wanted, backend)
    starts = list(accumulate(sizes, initial=0))
    kept, stride = as_rows(grad)
    sorted_rows, places = rows.sort(stable=True)
    for source, gradient in zip(wanted, out, strict=True):
        params = family("packing").ScatterRowsParams(
            DTYPE_CODES[grad.dtype],
            kept.data_ptr(),
            stride,
            sorted_rows.data_ptr(),
            places.data_ptr(),
            rows.shape[0],
            starts[source],
            gradient.shape[0],
            gradient.data_ptr(),
            grad.shape[1],
        )
        run(chosen, "packing.scatter_rows", grad.device, params)
    return out


def _refuse_rows_outside(rows: Tensor, sources: list[Tensor], *, lowest: int) -> None:
    if rows.device.type != "cpu" or rows.numel() == 0:
        return  # reading values back would synchronise
    num_rows = sum(source.shape[0] for source in sources)
    low, high = (int(bound) for bound in rows.aminmax())
    if low < lowest or high >= num_rows:
        raise ValueError(
            f"pack_rows: rows must be {lowest} to {num_rows - 1} (rows of all sources), "
            f"got {low if low < lowest else high}"
        )


def _forward_fake(sources: list[Tensor], rows: Tensor, backend: str) -> Tensor:
    return sources[0].new_empty((rows.shape[0], sources[0].shape[1]))


def _in_place_fake(out: Tensor, sources: list[Tensor], rows: Tensor, backend: str) -> None:
    pass


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
    computed = torch.ops.fastregion.pack_rows_backward(grad, rows, ctx.sizes, wanted, ctx.backend)
    gradients: list[Tensor | None] = [None] * len(ctx.sizes)
    for source, gradient in zip(wanted, computed, strict=True):
        gradients[source] = gradient
    return gradients, None, None


register("pack_rows(Tensor[] sources, Tensor rows, str backend) -> Tensor", _forward, _forward_fake)
register(
    "pack_rows_(Tensor(a!) out, Tensor[] sources, Tensor rows, str backend) -> ()",
    _forward_in_place,
    _in_place_fake,
)
register(
    "pack_rows_backward(Tensor grad, Tensor rows, SymInt[] sizes, int[] wanted, str backend) "
    "-> Tensor[]",
    _backward,
    _backward_fake,
)
register_gradient("pack_rows", _gradients, _save_rows)
refuse_second_gradient("pack_rows_backward")
