"""URECA's mask encoder: two 3 x 3 convolutions with stride 2 on mask tiles, then a linear layer.

    h[t] = relu(conv1(scale * tiles[t]))            conv: 3 x 3, stride 2, padding 1
    f[t] = relu(conv2(h[t]))
    out[t, n, c] = linear_bias[c] + sum over p of linear_weight[c, p] * f[t, n].flatten()[p]

Shapes: ``tiles [T, H, W]``, ``conv1_weight [M, 1, 3, 3]``, ``conv2_weight [N, M, 3, 3]``,
``linear_weight [C, P]`` with ``P = ceil(H / 4) * ceil(W / 4)`` positions, row-major; the result is
``[T, N, C]``: every channel of the second convolution is one token (M = N = 8 and P = 112 * 112 in
the released 8B model). Tiles are binary (bool or ``BitMasks``, 0 or 1) or grey (uint8, 0 to 255):
URECA's tiles hold 0 and 255 (``scale=255`` on binary ones) and its thumbnail is grey.

Away from the mask's outline the features are those of an empty or of a full tile, so

    out = linear_bias + f0 * weight_sums + linear_weight[:, touched] @ (f - f0)[touched]

reads 5 % of the weight for a usual mask, once for all tiles. On the CPU, where more than two fifths
of the positions are touched, all are summed, by torch's matrix product; the CUDA kernel sums what
is touched, however much that is, as counting it would have to be waited for. Two things of the
caller's make it faster; neither changes the result but by rounding:

* ``weight_sums [C]``, ``linear_weight.sum(1)`` in the accumulation dtype, saves reading the whole
  weight. It must be made anew when the weight changes.
* a ``linear_weight`` whose memory is position-major, ``linear_weight.t().contiguous().t()``, so
  that a touched position is one contiguous row.

Dtypes: parameters float32, float64, float16 or bfloat16, all the same, and so is the result.
Numerics: summed in float32 (float64 for float64), rounded once; with gradients and where all
positions are summed, the features are rounded too, as torch's convolution does. Autocast: none, the
dtype given is the dtype computed with. Differentiable in the six parameters, once. Deterministic;
the bits depend on the number of threads only where torch multiplies matrices: where all positions
are summed, and with gradients. Devices: any (reference); see ``fastregion.ops.OPERATORS`` for
kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.bit_masks import BitMasks
from fastregion.ops.checks import (
    accumulation_dtype,
    check_floating,
    check_same_device,
    check_same_dtype,
    dtype_name,
)
from fastregion.ops.native import DTYPE_CODES, family, run
from fastregion.ops.registration import refuse_second_gradient, register, register_gradient

_LARGEST_HIDDEN = 64  # channels between the convolutions; the native kernels keep them on chip
# Share of touched positions from which torch's matrix product over all of them is faster.
_DENSE_SHARE = 0.4


def mask_features_reference(
    tiles: Tensor,
    scale: float,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
) -> Tensor:
    """Features f ``[T, N, P]`` in plain torch, in the accumulation dtype of the parameters."""
    planes = _planes(tiles, scale, conv1_weight.dtype)
    hidden = _convolved(planes, conv1_weight, conv1_bias)
    return _convolved(hidden, conv2_weight, conv2_bias).flatten(2)


def mask_features_backward_reference(
    grad: Tensor,
    tiles: Tensor,
    scale: float,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the four parameters of the convolutions from that of the features."""
    planes = _planes(tiles, scale, conv1_weight.dtype)
    hidden = _convolved(planes, conv1_weight, conv1_bias)
    features = _convolved(hidden, conv2_weight, conv2_bias)
    masked = grad.to(features.dtype).view_as(features) * (features > 0)
    grad_hidden, weight2, bias2 = _convolution_backward(masked, hidden, conv2_weight)
    _, weight1, bias1 = _convolution_backward(grad_hidden * (hidden > 0), planes, conv1_weight)
    dtype = grad.dtype
    return weight1.to(dtype), bias1.to(dtype), weight2.to(dtype), bias2.to(dtype)


def _planes(tiles: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return tiles.unsqueeze(1).to(accumulation_dtype(dtype)) * scale


def _convolved(planes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    dtype = planes.dtype
    with torch.autocast(planes.device.type, enabled=False):
        return functional.conv2d(planes, weight.to(dtype), bias.to(dtype), 2, 1).relu()


def _convolution_backward(
    grad: Tensor, planes: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of what was convolved, of the weight and of the bias."""
    channels, two, one = [weight.shape[0]], [2, 2], [1, 1]
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, planes, weight.to(grad.dtype), channels, two, one, one, False, [0, 0], 1, [True] * 3
    )
    return result


def _linear(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return functional.linear(features, weight, bias)


def mask_encode_reference(
    tiles: Tensor,
    scale: float,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor,
) -> Tensor:
    """The definition, in plain torch; every backend is held to it (float64 stays float64)."""
    features = mask_features_reference(
        tiles, scale, conv1_weight, conv1_bias, conv2_weight, conv2_bias
    )
    weight, bias = linear_weight.to(features.dtype), linear_bias.to(features.dtype)
    return _linear(features, weight, bias).to(linear_weight.dtype)


def mask_encode(
    tiles: Tensor | BitMasks,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor,
    *,
    scale: float = 1.0,
    weight_sums: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Encode mask tiles to tokens.

    Args:
        tiles: ``[T, H, W]`` bool, bit-packed (what ``mask_tiles`` returns), or uint8 (grey).
        conv1_weight: ``[M, 1, 3, 3]``.
        conv1_bias: ``[M]``.
        conv2_weight: ``[N, M, 3, 3]``.
        conv2_bias: ``[N]``.
        linear_weight: ``[C, P]``; position-major memory is fastest, see the module.
        linear_bias: ``[C]``.
        scale: What a pixel is multiplied by.
        weight_sums: ``[C]``, the sum of ``linear_weight`` over positions in float32 (float64 for
            float64), if the caller has it. Not used where gradients are wanted.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``[T, N, C]`` in the dtype of ``linear_weight``.

    Raises:
        TypeError: Tiles that are not bool, uint8 or ``BitMasks``, or parameters of other dtypes
            than the module lists, or of dtypes that differ.
        ValueError: Shapes that do not fit, or tensors on different devices.
    """
    name = "mask_encode"
    grey, full = _grey_tiles(tiles, backend)
    if grey.dim() != 3 or 0 in grey.shape[1:]:
        raise ValueError(
            f"{name}: tiles must be [T, H, W] with H and W at least 1, "
            f"got shape {tuple(grey.shape)}"
        )
    parameters = {
        "conv1_weight": conv1_weight,
        "conv1_bias": conv1_bias,
        "conv2_weight": conv2_weight,
        "conv2_bias": conv2_bias,
        "linear_weight": linear_weight,
        "linear_bias": linear_bias,
    }
    check_floating(name, **parameters)
    check_same_dtype(name, **parameters)
    check_same_device(name, tiles=grey, **parameters, weight_sums=weight_sums)
    _check_shapes(grey, parameters, weight_sums)
    convolutions = (conv1_weight, conv1_bias, conv2_weight, conv2_bias)
    if torch.is_grad_enabled() and any(value.requires_grad for value in parameters.values()):
        features = torch.ops.fastregion.mask_features(grey, scale, *convolutions, backend or "")
        return _linear(features, linear_weight, linear_bias)
    out: Tensor = torch.ops.fastregion.mask_encode(
        grey, scale, full, *convolutions, linear_weight, linear_bias, weight_sums, backend or ""
    )
    return out


def _grey_tiles(tiles: Tensor | BitMasks, backend: str | None) -> tuple[Tensor, int]:
    """The tiles as uint8, and what a pixel inside of a binary mask holds."""
    if isinstance(tiles, BitMasks):
        tiles = tiles.unpack(backend=backend)
    if tiles.dtype == torch.bool:
        return tiles.view(torch.uint8), 1
    if tiles.dtype != torch.uint8:
        raise TypeError(
            f"mask_encode: tiles must be bool, uint8 or BitMasks, got {dtype_name(tiles.dtype)}"
        )
    return tiles, 255


def _check_shapes(tiles: Tensor, parameters: dict[str, Tensor], weight_sums: Tensor | None) -> None:
    conv1, conv2 = parameters["conv1_weight"], parameters["conv2_weight"]
    linear = parameters["linear_weight"]
    hidden, tokens, channels = (
        len(weight) if weight.dim() else 0 for weight in (conv1, conv2, linear)
    )
    if hidden < 1 or tokens < 1:
        raise ValueError(
            "mask_encode: conv1_weight must be [M, 1, 3, 3] and conv2_weight [N, M, 3, 3] with M "
            f"and N at least 1, got shapes {tuple(conv1.shape)} and {tuple(conv2.shape)}"
        )
    height, width = tiles.shape[1:]
    positions = ((height + 3) // 4) * ((width + 3) // 4)
    expected: dict[str, tuple[int, ...]] = {
        "conv1_weight": (hidden, 1, 3, 3),
        "conv1_bias": (hidden,),
        "conv2_weight": (tokens, hidden, 3, 3),
        "conv2_bias": (tokens,),
        "linear_weight": (channels, positions),
        "linear_bias": (channels,),
    }
    for name, shape in expected.items():
        if parameters[name].shape != shape:
            raise ValueError(
                f"mask_encode: {name} must be {shape} for tiles of {height} x {width}, "
                f"{hidden} hidden channels and {tokens} tokens, "
                f"got shape {tuple(parameters[name].shape)}"
            )
    if weight_sums is None:
        return
    dtype = accumulation_dtype(linear.dtype)
    if weight_sums.dtype != dtype:
        raise TypeError(
            f"mask_encode: weight_sums must be {dtype_name(dtype)}, the dtype sums of "
            f"{dtype_name(linear.dtype)} are kept in, got {dtype_name(weight_sums.dtype)}"
        )
    if weight_sums.shape != (channels,):
        raise ValueError(
            f"mask_encode: weight_sums must be [{channels}], got shape {tuple(weight_sums.shape)}"
        )


def _limit(conv1_weight: Tensor) -> str | None:
    hidden = conv1_weight.shape[0]
    if hidden <= _LARGEST_HIDDEN:
        return None
    return f"native kernels take at most {_LARGEST_HIDDEN} hidden channels, got {hidden}"


def _params(tiles: Tensor, scale: float, full: int, convolutions: list[Tensor]) -> Any:
    """The contract of csrc/masks/mask_encode.h. All tensors must be contiguous."""
    conv1_weight, _, conv2_weight, _ = convolutions
    return family("masks").MaskEncodeParams(
        DTYPE_CODES[conv1_weight.dtype],
        tiles.data_ptr(),
        scale,
        full,
        *(tensor.data_ptr() for tensor in convolutions),
        *tiles.shape,
        conv1_weight.shape[0],
        conv2_weight.shape[0],
    )


def _workspace(backend: str, kernel: str, tiles: Tensor, *arguments: object) -> Tensor:
    size = run(backend, f"masks.{kernel}_workspace", tiles.device, *arguments)
    return tiles.new_empty(size)


def _encode(
    tiles: Tensor,
    scale: float,
    full: int,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor,
    weight_sums: Tensor | None,
    backend: str,
) -> Tensor:
    chosen = choose_backend("mask_encode", tiles.device, force=backend, limit=_limit(conv1_weight))
    convolutions = (conv1_weight, conv1_bias, conv2_weight, conv2_bias)
    if chosen == "reference":
        return mask_encode_reference(tiles, scale, *convolutions, linear_weight, linear_bias)
    dense = [tensor.contiguous() for tensor in convolutions]
    tiles, linear_bias = tiles.contiguous(), linear_bias.contiguous()
    params = _params(tiles, scale, full, dense)
    # Elsewhere the answer would have to be waited for.
    if chosen == "cpu" and family("masks").mask_encode_share(params) > _DENSE_SHARE:
        features = _features(tiles, scale, *convolutions, backend)
        return _linear(features, linear_weight, linear_bias)
    weight_sums = None if weight_sums is None else weight_sums.contiguous()
    out = linear_weight.new_empty((len(tiles), conv2_weight.shape[0], linear_weight.shape[0]))
    workspace = _workspace(chosen, "mask_encode", tiles, params, linear_weight.shape[0])
    linear = family("masks").MaskLinearParams(
        linear_weight.data_ptr(),
        *linear_weight.stride(),
        linear_bias.data_ptr(),
        0 if weight_sums is None else weight_sums.data_ptr(),
        linear_weight.shape[0],
        out.data_ptr(),
    )
    run(chosen, "masks.mask_encode", tiles.device, params, linear, workspace.data_ptr())
    return out


def _encode_fake(
    tiles: Tensor,
    scale: float,
    full: int,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor,
    weight_sums: Tensor | None,
    backend: str,
) -> Tensor:
    shape = (tiles.shape[0], conv2_weight.shape[0], linear_weight.shape[0])
    return linear_weight.new_empty(shape)


def _features(
    tiles: Tensor,
    scale: float,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    backend: str,
) -> Tensor:
    chosen = choose_backend("mask_encode", tiles.device, force=backend, limit=_limit(conv1_weight))
    convolutions = (conv1_weight, conv1_bias, conv2_weight, conv2_bias)
    if chosen == "reference":
        return mask_features_reference(tiles, scale, *convolutions).to(conv1_weight.dtype)
    out = _features_fake(tiles, scale, *convolutions, backend)
    dense, tiles = [tensor.contiguous() for tensor in convolutions], tiles.contiguous()
    params = _params(tiles, scale, 255, dense)
    workspace = _workspace(chosen, "mask_features", tiles, params, 1)
    run(chosen, "masks.mask_features", tiles.device, params, out.data_ptr(), workspace.data_ptr())
    return out


def _features_fake(
    tiles: Tensor,
    scale: float,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    backend: str,
) -> Tensor:
    positions = ((tiles.shape[1] + 3) // 4) * ((tiles.shape[2] + 3) // 4)
    return conv1_weight.new_empty((tiles.shape[0], conv2_weight.shape[0], positions))


def _features_backward(
    grad: Tensor,
    tiles: Tensor,
    scale: float,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chosen = choose_backend(
        "mask_encode_backward", tiles.device, force=backend, limit=_limit(conv1_weight)
    )
    convolutions = (conv1_weight, conv1_bias, conv2_weight, conv2_bias)
    if chosen == "reference":
        return mask_features_backward_reference(grad, tiles, scale, *convolutions)
    dense = [tensor.contiguous() for tensor in convolutions]
    tiles, grad = tiles.contiguous(), grad.contiguous()
    grads = _features_backward_fake(grad, tiles, scale, *convolutions, backend)
    params = _params(tiles, scale, 255, dense)
    workspace = _workspace(chosen, "mask_features", tiles, params, 2)
    addresses = (tensor.data_ptr() for tensor in grads)
    run(
        chosen,
        "masks.mask_features_backward",
        tiles.device,
        params,
        grad.data_ptr(),
        *addresses,
        workspace.data_ptr(),
    )
    return grads


def _features_backward_fake(
    grad: Tensor,
    tiles: Tensor,
    scale: float,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        conv1_weight.new_empty(conv1_weight.shape),
        conv1_bias.new_empty(conv1_bias.shape),
        conv2_weight.new_empty(conv2_weight.shape),
        conv2_bias.new_empty(conv2_bias.shape),
    )


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tiles, ctx.scale, *convolutions, ctx.backend = inputs
    ctx.save_for_backward(tiles, *convolutions)


def _parameter_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tiles, *convolutions = ctx.saved_tensors
    grads = torch.ops.fastregion.mask_encode_backward(
        grad, tiles, ctx.scale, *convolutions, ctx.backend
    )
    return None, None, *grads, None


_CONVOLUTIONS = "Tensor conv1_weight, Tensor conv1_bias, Tensor conv2_weight, Tensor conv2_bias"
register(
    f"mask_encode(Tensor tiles, float scale, int full, {_CONVOLUTIONS}, Tensor linear_weight, "
    "Tensor linear_bias, Tensor? weight_sums, str backend) -> Tensor",
    _encode,
    _encode_fake,
)
register(
    f"mask_features(Tensor tiles, float scale, {_CONVOLUTIONS}, str backend) -> Tensor",
    _features,
    _features_fake,
)
register(
    f"mask_encode_backward(Tensor grad, Tensor tiles, float scale, {_CONVOLUTIONS}, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor)",
    _features_backward,
    _features_backward_fake,
)
register_gradient("mask_features", _parameter_gradients, _save_inputs)
refuse_second_gradient("mask_encode_backward")
