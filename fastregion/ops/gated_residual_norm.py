"""A gated residual and the layer norm that follows it, in one pass over the rows.

    y = x + g(gate) * branch                                  rounded to the dtype of x
    normed = layer_norm(y) = (y - mean(y)) / sqrt(var(y) + eps) * norm_weight + norm_bias

Shapes: ``x``, ``branch``, ``y`` and ``normed`` are ``[..., C]``; ``gate`` is one number (``[]`` or
``[1]``: the adapters of DAM) or ``[C]`` (LayerScale); ``norm_weight`` and ``norm_bias`` are ``[C]``
or None (1 and 0). Mean and variance (divided by C) are those of a row. The norm is that of ``y`` as
it is stored, rounded: what ``layer_norm`` makes of it in a second pass. ``g`` is the gate itself
("raw", what the released weights of DAM mean) or its tanh (what DAM's paper writes).

Dtypes: ``x`` and ``branch`` float32, float64, float16 or bfloat16, and so are the results; the
parameters (``gate``, ``norm_weight``, ``norm_bias``) all of that dtype or, of half precision, all
float32. Numerics: computed in float32 (float64 for float64), ``y`` and ``normed`` rounded once.
Autocast: none, the dtype given is the dtype computed with. Differentiable in ``x``, ``branch`` and
the parameters, through both results, once; of the rows only ``y`` and ``branch`` are kept for it.
Deterministic; on the CPU the bits do not depend on the number of threads. Devices: any (reference);
see ``fastregion.ops.OPERATORS`` for kernels; that for CUDA takes at most 4096 channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.checks import (
    accumulation_dtype,
    check_floating,
    check_same_device,
    check_same_dtype,
    dtype_name,
)
from fastregion.ops.native import DTYPE_CODES, as_rows, family, run
from fastregion.ops.registration import refuse_second_gradient, register, register_gradient

GATE_ACTIVATIONS = ("raw", "tanh")
_MOST_CUDA_CHANNELS = 4096  # csrc/attention/gated_norm.h


def gated_residual_norm_reference(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The definition, in plain torch; every backend is held to it (float64 stays float64)."""
    dtype = accumulation_dtype(x.dtype)
    y = torch.addcmul(x.to(dtype), gate.to(dtype), branch.to(dtype)).to(x.dtype)
    weight = None if norm_weight is None else norm_weight.to(dtype)
    bias = None if norm_bias is None else norm_bias.to(dtype)
    normed = functional.layer_norm(y.to(dtype), y.shape[-1:], weight, bias, eps)
    return y, normed.to(x.dtype)


def gated_residual_norm_backward_reference(
    grad_y: Tensor,
    grad_normed: Tensor,
    y: Tensor,
    branch: Tensor,
    gate: Tensor,
    norm_weight: Tensor | None,
    has_bias: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, branch, gate, norm_weight and norm_bias (empty where there is none)."""
    dtype, channels = accumulation_dtype(y.dtype), y.shape[-1]
    shape = (y.shape[:-1].numel(), channels)
    grad_y, grad_normed, wide, branch_rows = (
        value.reshape(shape).to(dtype) for value in (grad_y, grad_normed, y, branch)
    )
    deviation = wide - wide.mean(-1, keepdim=True)
    scale = (deviation.square().mean(-1, keepdim=True) + eps).rsqrt()
    n = deviation * scale
    grad_n = grad_normed if norm_weight is None else grad_normed * norm_weight.to(dtype)
    projected = n * (grad_n * n).mean(-1, keepdim=True)
    grad_x = grad_y + (grad_n - grad_n.mean(-1, keepdim=True) - projected) * scale
    grad_gate = (grad_x * branch_rows).sum(0)
    if gate.numel() != channels:
        grad_gate = grad_gate.sum()
    return (
        grad_x.view(y.shape).to(y.dtype),
        (grad_x * gate.to(dtype)).view(y.shape).to(y.dtype),
        grad_gate.view(gate.shape).to(gate.dtype),
        gate.new_empty(0) if norm_weight is None else (grad_normed * n).sum(0).to(gate.dtype),
        grad_normed.sum(0).to(gate.dtype) if has_bias else gate.new_empty(0),
    )


def gated_residual_norm(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    *,
    gate_activation: str = "raw",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Add a gated branch to a residual stream and normalise the sum.

    Args:
        x: ``[..., C]``, the residual stream.
        branch: Like ``x``, what is added to it.
        gate: ``[]`` or ``[1]``, one gate for everything, or ``[C]``, one a channel.
        norm_weight: ``[C]`` or None.
        norm_bias: ``[C]`` or None.
        eps: Added to the variance, at least 0.
        gate_activation: ``"raw"`` multiplies by the gate, ``"tanh"`` by its tanh.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``y`` and ``normed``, both ``[..., C]`` in the dtype of ``x``.

    Raises:
        TypeError: Dtypes that the module does not list, or that differ.
        ValueError: Shapes that do not fit, tensors on different devices, a negative ``eps`` or an
            unknown ``gate_activation``.
    """
    name = "gated_residual_norm"
    parameters = {"gate": gate, "norm_weight": norm_weight, "norm_bias": norm_bias}
    check_floating(name, x=x, branch=branch, **parameters)
    check_same_dtype(name, x=x, branch=branch)
    check_same_dtype(name, **parameters)
    allowed = dict.fromkeys((x.dtype, accumulation_dtype(x.dtype)))
    if gate.dtype not in allowed:
        raise TypeError(
            f"{name}: gate must be {' or '.join(map(dtype_name, allowed))} for x of "
            f"{dtype_name(x.dtype)}, got {dtype_name(gate.dtype)}"
        )
    check_same_device(name, x=x, branch=branch, **parameters)
    _check_shapes(x, branch, parameters)
    if not eps >= 0:
        raise ValueError(f"{name}: eps must be at least 0, got {eps}")
    if gate_activation not in GATE_ACTIVATIONS:
        raise ValueError(
            f"{name}: gate_activation must be 'raw' or 'tanh', got {gate_activation!r}"
        )
    if gate_activation == "tanh":
        gate = gate.tanh()
    result: tuple[Tensor, Tensor] = torch.ops.fastregion.gated_residual_norm(
        x, branch, gate, norm_weight, norm_bias, eps, backend or ""
    )
    return result


def _check_shapes(x: Tensor, branch: Tensor, parameters: dict[str, Tensor | None]) -> None:
    name = "gated_residual_norm"
    if x.dim() == 0:
        raise ValueError(f"{name}: x must be [..., C], got shape ()")
    if branch.shape != x.shape:
        raise ValueError(
            f"{name}: x and branch must have the same shape, "
            f"got {tuple(x.shape)} and {tuple(branch.shape)}"
        )
    channels = x.shape[-1]
    for key, tensor in parameters.items():
        if tensor is None or tensor.shape == (channels,):
            continue
        if key == "gate" and tensor.shape in ((), (1,)):
            continue
        expected = f"[], [1] or [{channels}]" if key == "gate" else f"[{channels}]"
        raise ValueError(
            f"{name}: {key} must be {expected} for x of {channels} channels, "
            f"got shape {tuple(tensor.shape)}"
        )


def _limit(x: Tensor) -> str | None:
    if x.device.type == "cpu" or x.shape[-1] <= _MOST_CUDA_CHANNELS:
        return None
    return f"the CUDA kernel takes at most {_MOST_CUDA_CHANNELS} channels, got {x.shape[-1]}"


def _as_rows(tensor: Tensor) -> tuple[Tensor, int]:
    return as_rows(tensor if tensor.dim() > 1 else tensor.unsqueeze(0))


def _params(
    x: Tensor, gate: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float
) -> Any:
    """The contract of csrc/attention/gated_norm.h. The parameters must be contiguous."""
    channels = x.shape[-1]
    return family("attention").GatedNormParams(
        DTYPE_CODES[x.dtype],
        DTYPE_CODES[gate.dtype],
        x.numel() // channels,
        channels,
        gate.data_ptr(),
        gate.numel() == channels,
        0 if norm_weight is None else norm_weight.data_ptr(),
        0 if norm_bias is None else norm_bias.data_ptr(),
        eps,
    )


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _forward(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    chosen = choose_backend("gated_residual_norm", x.device, force=backend, limit=_limit(x))
    if chosen == "reference":
        return gated_residual_norm_reference(x, branch, gate, norm_weight, norm_bias, eps)
    y, normed = _forward_fake(x, branch, gate, norm_weight, norm_bias, eps, backend)
    if x.numel() == 0:
        return y, normed
    gate, norm_weight, norm_bias = gate.contiguous(), _dense(norm_weight), _dense(norm_bias)
    (x, x_stride), (branch, branch_stride) = _as_rows(x), _as_rows(branch)
    rows = family("attention").GatedNormForward(
        x.data_ptr(), x_stride, branch.data_ptr(), branch_stride, y.data_ptr(), normed.data_ptr()
    )
    params = _params(y, gate, norm_weight, norm_bias, eps)
    run(chosen, "attention.gated_norm", y.device, params, rows)
    return y, normed


def _forward_fake(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _backward(
    grad_y: Tensor,
    grad_normed: Tensor,
    y: Tensor,
    branch: Tensor,
    gate: Tensor,
    norm_weight: Tensor | None,
    has_bias: bool,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    chosen = choose_backend(
        "gated_residual_norm_backward", y.device, force=backend, limit=_limit(y)
    )
    settings = (gate, norm_weight, has_bias, eps)
    if chosen == "reference" or y.numel() == 0:
        return gated_residual_norm_backward_reference(grad_y, grad_normed, y, branch, *settings)
    grads = _backward_fake(grad_y, grad_normed, y, branch, *settings, backend)
    gate, norm_weight = gate.contiguous(), _dense(norm_weight)
    params = _params(y, gate, norm_weight, None, eps)
    workspace = torch.empty(
        family("attention").gated_norm_workspace_bytes(params), dtype=torch.uint8, device=y.device
    )
    tensors = [_as_rows(tensor) for tensor in (y, branch, grad_y, grad_normed)]
    addresses = [value for tensor, stride in tensors for value in (tensor.data_ptr(), stride)]
    addresses += [tensor.data_ptr() for tensor in grads]  # 0 of an empty one
    rows = family("attention").GatedNormBackward(*addresses)
    kernel = "attention.gated_norm_backward"
    run(chosen, kernel, y.device, params, rows, workspace.data_ptr())
    return grads


def _backward_fake(
    grad_y: Tensor,
    grad_normed: Tensor,
    y: Tensor,
    branch: Tensor,
    gate: Tensor,
    norm_weight: Tensor | None,
    has_bias: bool,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    channels = y.shape[-1]
    return (
        y.new_empty(y.shape),
        y.new_empty(y.shape),
        gate.new_empty(gate.shape),
        gate.new_empty(0 if norm_weight is None else channels),
        gate.new_empty(channels if has_bias else 0),
    )


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, branch, gate, norm_weight, norm_bias, ctx.eps, ctx.backend = inputs
    ctx.has_bias = norm_bias is not None
    ctx.save_for_backward(output[0], branch, gate, norm_weight)


def _gradients(ctx: Any, grad_y: Tensor, grad_normed: Tensor) -> tuple[Tensor | None, ...]:
    y, branch, gate, norm_weight = ctx.saved_tensors
    grad_x, grad_branch, grad_gate, grad_weight, grad_bias = (
        torch.ops.fastregion.gated_residual_norm_backward(
            grad_y, grad_normed, y, branch, gate, norm_weight, ctx.has_bias, ctx.eps, ctx.backend
        )
    )
    if norm_weight is None:
        grad_weight = None
    if not ctx.has_bias:
        grad_bias = None
    return grad_x, grad_branch, grad_gate, grad_weight, grad_bias, None, None


register(
    "gated_residual_norm(Tensor x, Tensor branch, Tensor gate, Tensor? norm_weight, "
    "Tensor? norm_bias, float eps, str backend) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)
register(
    "gated_residual_norm_backward(Tensor grad_y, Tensor grad_normed, Tensor y, Tensor branch, "
    "Tensor gate, Tensor? norm_weight, bool has_bias, float eps, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
register_gradient("gated_residual_norm", _gradients, _save_inputs)
refuse_second_gradient("gated_residual_norm_backward")
