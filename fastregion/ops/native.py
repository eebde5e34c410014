"""How tensors cross to the native module: pointers, strides and dtype codes, no copies."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastregion._native import native_module

# csrc/core/dtype.h
DTYPE_CODES = {
    torch.float32: 0,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.float64: 3,
    torch.uint8: 4,
    torch.bool: 4,
    torch.int32: 5,
    torch.int64: 6,
}


def family(name: str) -> Any:
    """Return a submodule of the native module, which ``ops.backend`` has found to be there."""
    module: ModuleType | None = native_module()
    assert module is not None, "ops.backend names a native backend only when the module loads"
    return getattr(module, name)


def run(backend: str, kernel: str, device: torch.device, *arguments: object) -> Any:
    """Call ``kernel`` ("family.name"): on torch's number of threads, or on its current stream."""
    submodule, _, name = kernel.partition(".")
    if backend == "cpu":
        return getattr(family(submodule), name)(*arguments, torch.get_num_threads())
    stream = torch.cuda.current_stream(device).cuda_stream
    return getattr(family(submodule), f"{name}_cuda")(*arguments, device.index, stream)


def wrote_to(*tensors: Tensor) -> None:
    """Tell autograd what a kernel wrote behind torch's back; every in-place kernel needs it."""
    for tensor in tensors:
        if not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)


def as_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """View ``[..., C]`` as rows with contiguous channels; copies only if it must.

    Returns:
        The tensor to keep alive during the call, and the elements from one row to the next.
    """
    if not tensor.is_contiguous():
        tensor = tensor.flatten(0, -2)
        if tensor.stride(1) == 1:
            return tensor, tensor.stride(0)
        tensor = tensor.contiguous()
    return tensor, tensor.shape[-1]
