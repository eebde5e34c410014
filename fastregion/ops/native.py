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


def as_rows(tensor: Tensor) -> Tensor:
    """View ``[..., N, C]`` as rows ``[M, C]`` with contiguous channels; copies if it must."""
    rows = tensor.detach().flatten(0, -2)
    return rows if rows.stride(1) == 1 or rows.shape[1] <= 1 else rows.contiguous()
