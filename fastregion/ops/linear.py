"""The linear layer by the faster float32 matrix product that torch has for this processor.

    linear(x, weight, bias) = x weight^T + bias = torch.nn.functional.linear(x, weight, bias)

On a CPU torch carries two libraries of matrix products: ``functional.linear`` calls the one, MKL in
most builds, and ``mkldnn::_linear_pointwise`` the other, oneDNN. On processors of AMD the second is
twice as fast in float32; on those of Intel they are about equal. So the processor's maker decides,
or the environment variable ``FASTREGION_LINEAR`` (``torch`` or ``onednn``). Nothing is timed: two
processes on one machine would now and then decide differently, and then differ in the last bits.

Small products, other dtypes, other devices, autocast, forward-mode derivatives and ``torch.func``
go straight to ``functional.linear``, and so does everything where torch has no oneDNN. Results are
those of ``functional.linear`` but for the order of the sums; errors are its own. Differentiable as
often as one likes, by the same products; one node in ``torch.compile``.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from fastregion.ops.registration import register, register_gradient

VARIABLE = "FASTREGION_LINEAR"
PRODUCTS = ("torch", "onednn")

# Multiply-adds below which the way through another operator costs more than it brings.
_FEWEST_MULTIPLY_ADDS = 2**25
_PROCESSOR = Path("/proc/cpuinfo")  # of Linux


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``.
        bias: ``[out]`` or None.

    Returns:
        ``[..., out]``.

    Raises:
        ValueError: ``FASTREGION_LINEAR`` holds something else than ``torch`` or ``onednn``.
        RuntimeError: ``onednn`` is asked for there and torch has none; or, from torch, shapes,
            dtypes and devices that do not fit.
    """
    if not _worth_choosing(x, weight, bias):
        return functional.linear(x, weight, bias)
    out: Tensor = torch.ops.fastregion.linear(x, weight, bias)
    return out


class Linear(nn.Linear):
    """``torch.nn.Linear`` by the fastest product; parameters and state dict are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        return linear(x, self.weight, self.bias)


def linear_product() -> str:
    """Name the product of large float32 layers on the CPU: ``"torch"`` or ``"onednn"``.

    The same in all processes of a machine, as long as they see the same environment.

    Raises:
        ValueError: ``FASTREGION_LINEAR`` holds something else.
        RuntimeError: ``onednn`` is asked for there and torch has none.
    """
    asked = os.environ.get(VARIABLE)
    if not asked:
        return _product_of_processor()
    if asked not in PRODUCTS:
        raise ValueError(f"linear: {VARIABLE} must be torch or onednn, got {asked!r}")
    if asked == "onednn" and not _has_onednn():
        raise RuntimeError(f"linear: {VARIABLE} is onednn, but this build of torch has no oneDNN")
    return asked


def _worth_choosing(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        all(
            tensor.dtype == torch.float32 and tensor.device.type == "cpu"
            for tensor in (x, weight, bias)
            if tensor is not None
        )
        and x.dim() >= 1
        and weight.dim() == 2
        and x.shape[-1] == weight.shape[1]
        and (bias is None or bias.shape == weight.shape[:1])
        and x.numel() * weight.shape[0] >= _FEWEST_MULTIPLY_ADDS
        and not torch.is_autocast_enabled("cpu")
        and not _transformed()
    )


def _transformed() -> bool:
    """Whether forward-mode derivatives or vmap go on, which know nothing of our operator."""
    if torch.compiler.is_compiling():
        return False
    transforms: bool = torch._C._are_functorch_transforms_active()
    return transforms or forward_ad._current_level >= 0


@cache
def _has_onednn() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@cache
def _product_of_processor() -> str:
    """Of oneDNN where MKL does not know the processor's maker for its own."""
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    by_amd = _PROCESSOR.is_file() and "AuthenticAMD" in _PROCESSOR.read_text(errors="replace")
    return "onednn" if has_mkl and by_amd and _has_onednn() else "torch"


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if linear_product() == "torch":
        return functional.linear(x, weight, bias)
    return _by_onednn(x, weight, bias)


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, wants_bias = ctx.needs_input_grad
    rows, grad_rows = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
    return (
        linear(grad, weight.t()) if wants_x else None,
        linear(grad_rows.t(), rows.t()) if wants_weight else None,
        grad_rows.sum(0) if wants_bias else None,
    )


register("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _forward, _forward_fake)
register_gradient("linear", _gradients, _save_inputs)
