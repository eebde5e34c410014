"""RoI-Align of boxes on feature maps: torchvision's operator, forward and backward.

    out[r, c, i, j] = mean over the sample points (y, x) of bin (i, j) of input[b(r), c](y, x)

Shapes: ``input [N, C, H, W]``; ``boxes`` either ``[R, 5]`` (batch index, x1, y1, x2, y2) or one
``[L, 4]`` for each image; ``out [R, C, oh, ow]``. Corners times ``spatial_scale`` are cells of the
map. With ``aligned`` they move by half a cell to the cell centres; without it, as in the first
Detectron, they do not, and a box has at least one cell each way. A bin is sampled at the centres of
``sampling_ratio`` x ``sampling_ratio`` equal parts, or, at 0 or below, of as many as make a part at
most one cell, axis by axis and box by box. Bilinear between cell centres at integers; a point below
-1 or beyond the map's height or width counts 0; one between -1 and 0 uses cell 0, one past the last
cell the last cell. Boxes may be empty, reversed or outside; those without a sample give zeros.

Layouts: maps in planes (NCHW) and channels last are read where they are, slices of either too;
anything else is copied once. Result and gradient are contiguous NCHW, as torchvision's are.

Dtypes: ``input`` float32, float64, float16, bfloat16 (the output has the same); ``boxes`` any of
these (a batch index of half precision is exact to 256 or 2048: a list of boxes has no such limit);
a quantized input of one image is computed in float32 and quantized again. Numerics: weights
and sums in float32 (float64 for float64), rounded once. Autocast: none, the dtype given is the
dtype computed with. Differentiable in ``input``, twice; not in ``boxes``. Scripted by TorchScript.
Deterministic, except the gradient on a GPU, which adds with atomics unless
``torch.use_deterministic_algorithms`` asks for the slower fixed order. Devices: any (reference);
see ``fastregion.ops.OPERATORS`` for kernels. Boxes with NaN or infinity, or of no image, are
refused on the CPU; on other devices that would need a synchronisation, and their rows are zeros.
A NaN or infinite feature reaches the bins that read it; in the reference, the whole box.
"""

# No "from __future__ import annotations" here: TorchScript reads the types themselves.
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._jit_internal import BroadcastingList2  # type: ignore[attr-defined]

from fastregion.ops.backend import backend as choose_backend
from fastregion.ops.checks import (
    accumulation_dtype,
    check_floating,
    check_same_device,
    integer,
    size_pair,
)
from fastregion.ops.native import DTYPE_CODES, family, run
from fastregion.ops.registration import register, register_gradient


class BoxesShapeError(ValueError, AssertionError):
    """Boxes that are neither ``[R, 5]`` nor a list of ``[L, 4]``; torchvision asserts this."""


# Of a bin, along one axis, where the box is of absurd size; csrc/roi/bilinear.h has the same.
_MOST_SAMPLES = 2**30


def _samples_on_map(
    begin: Tensor, bin_size: Tensor, samples: Tensor, cells: int
) -> tuple[Tensor, Tensor]:
    """Range ``[R, bins]`` with all samples of a bin that can lie on the map, as in the kernels.

    A box far larger than the map, adaptively sampled, has millions of others.
    """
    step = bin_size / samples
    margin = 1e-5 * samples + 2  # rounding of the sample points
    first = (-1 - begin) / step - margin
    last = (cells - begin) / step + margin
    all_of_them = (samples <= 64) | ~(step > 0)
    first = torch.where(first > 0, first.minimum(samples), 0)  # 0 of NaN: an empty range
    last = torch.where(last > 0, last.minimum(samples), 0)
    return torch.where(all_of_them, 0, first).long(), torch.where(all_of_them, samples, last).long()


def _axis_weights(
    low: Tensor,
    high: Tensor,
    spatial_scale: float,
    bins: int,
    cells: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Weight of every cell in every bin along one axis, ``[R, bins, cells]``."""
    offset = 0.5 if aligned else 0.0
    start = low * spatial_scale - offset  # [R]
    size = high * spatial_scale - offset - start
    if not aligned:
        size = size.clamp(min=1)
    bin_size = size / bins
    if sampling_ratio > 0:
        samples = torch.full_like(bin_size, sampling_ratio)
    else:
        samples = torch.where(bin_size > 0, bin_size.ceil(), 0).clamp(max=_MOST_SAMPLES)
    begin = torch.arange(bins, device=low.device, dtype=low.dtype) * bin_size[:, None]
    begin = start[:, None] + begin  # [R, bins]
    first, last = _samples_on_map(begin, bin_size[:, None], samples[:, None], cells)
    most = max(int((last - first).max()), 1) if len(samples) else 1
    number = first[:, :, None] + torch.arange(most, device=low.device)  # [R, bins, most]
    within = (number.to(low.dtype) + 0.5) * bin_size[:, None, None] / samples[:, None, None]
    points = begin[:, :, None] + within
    inside = (points >= -1) & (points <= cells) & (number < last[:, :, None])
    points = torch.where(inside, points.clamp(0, cells - 1), 0)
    cell = points.floor()
    fraction = points - cell
    share = inside / samples.clamp(min=1)[:, None, None]
    weights = points.new_zeros((len(low), bins, cells))
    weights.scatter_add_(2, cell.long(), share * (1 - fraction))
    return weights.scatter_add_(2, (cell.long() + 1).clamp(max=cells - 1), share * fraction)


def _weights(
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    output_size: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
) -> tuple[list[int], Tensor, Tensor]:
    """Image of every box (-1: none), row weights ``[R, oh, H]``, column weights ``[R, ow, W]``."""
    image, x1, y1, x2, y2 = rois.unbind(1)
    images = torch.where(image.isfinite(), image, -1).long().tolist()
    settings = (sampling_ratio, aligned)
    rows = _axis_weights(y1, y2, spatial_scale, output_size[0], height, *settings)
    columns = _axis_weights(x1, x2, spatial_scale, output_size[1], width, *settings)
    return images, rows, columns


def roi_align_reference(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    output_size: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The definition, in plain torch; every backend is held to it (float64 stays float64)."""
    dtype = accumulation_dtype(input.dtype)
    images, rows, columns = _weights(
        rois.to(dtype),
        input.shape[2],
        input.shape[3],
        spatial_scale,
        output_size,
        sampling_ratio,
        aligned,
    )
    out = input.new_zeros((len(rois), input.shape[1], *output_size))
    for roi, image in enumerate(images):
        if 0 <= image < len(input):
            out[roi] = (rows[roi] @ input[image].to(dtype) @ columns[roi].T).to(input.dtype)
    return out


def roi_align_backward_reference(
    grad: Tensor,
    rois: Tensor,
    input_size: Sequence[int],
    spatial_scale: float,
    output_size: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Transpose of ``roi_align_reference``: gradient of the input ``[N, C, H, W]``."""
    dtype = accumulation_dtype(grad.dtype)
    images, rows, columns = _weights(
        rois.to(dtype),
        input_size[2],
        input_size[3],
        spatial_scale,
        output_size,
        sampling_ratio,
        aligned,
    )
    out = grad.new_zeros(input_size, dtype=dtype)
    for roi, image in enumerate(images):
        if 0 <= image < len(out):
            out[image] += rows[roi].T @ grad[roi].to(dtype) @ columns[roi]
    return out.to(grad.dtype)


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """RoI-Align, with the arguments and the results of ``torchvision.ops.roi_align``.

    Args:
        input: ``[N, C, H, W]`` feature maps.
        boxes: ``[R, 5]`` as (batch index, x1, y1, x2, y2), or for each image a ``[L, 4]``.
        output_size: (height, width) of the result in bins, or one number for both.
        spatial_scale: Cells of the map per unit of the boxes.
        sampling_ratio: Samples of a bin along each axis; adaptive at 0 or below.
        aligned: Whether boxes move by half a cell, so that pixel centres are at +0.5.
        backend: Force ``"reference"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        ``[R, C, oh, ow]`` in the dtype of ``input``, contiguous.

    Raises:
        TypeError: ``input`` or ``boxes`` not of a floating dtype listed in the module, or a
            ``sampling_ratio`` that is no integer.
        RuntimeError: A quantized ``input`` of more than one image.
        ValueError: Wrong ranks, a map without cells, more lists of boxes than images, an
            ``output_size`` that is not one or two positive integers, a ``spatial_scale`` that is
            not finite, tensors on different devices, or (on the CPU) boxes that are not finite or
            whose batch index is of no image.
    """
    name = "roi_align"
    if input.is_quantized:
        return _quantized(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)
    if input.dim() != 4:
        raise ValueError(f"{name}: input must be [N, C, H, W], got shape {tuple(input.shape)}")
    if input.shape[2] < 1 or input.shape[3] < 1:
        raise ValueError(
            f"{name}: input must have at least one row and column, got shape {tuple(input.shape)}"
        )
    rois = boxes if isinstance(boxes, Tensor) else _boxes_to_rois(input, boxes)
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise BoxesShapeError(
            f"{name}: boxes must be [R, 5] (batch index, x1, y1, x2, y2) or a list of [L, 4] for "
            f"each image, got shape {tuple(rois.shape)}"
        )
    check_floating(name, input=input, boxes=rois)
    check_same_device(name, input=input, boxes=rois)
    size = size_pair(name, "output_size", output_size)
    ratio = integer(name, "sampling_ratio", sampling_ratio)
    if not -math.inf < spatial_scale < math.inf:  # math.isfinite breaks graphs of torch.compile
        raise ValueError(f"{name}: spatial_scale must be finite, got {spatial_scale}")
    out: Tensor = torch.ops.fastregion.roi_align(
        input, rois, float(spatial_scale), size, ratio, bool(aligned), backend or ""
    )
    return out


torch.fx.wrap("roi_align")  # a leaf for symbolic tracing: its checks cannot run on proxies


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _from_script(
    input: Tensor,
    boxes: Tensor | list[Tensor],
    output_size: list[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)


def _scriptable(
    input: Tensor,
    boxes: Tensor | list[Tensor],
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """What TorchScript compiles in place of ``roi_align``, whose checks it does not understand."""
    out: Tensor = _from_script(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)
    return out


roi_align.__prepare_scriptable__ = lambda: _scriptable  # type: ignore[attr-defined]


class RoIAlign(torch.nn.Module):
    """``roi_align`` with fixed settings, as a module."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor | list[Tensor]) -> Tensor:
        """See ``roi_align``."""
        return roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )

    def extra_repr(self) -> str:
        """Name the settings."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


def _quantized(input: Tensor, boxes: Any, *settings: Any) -> Tensor:
    """As torchvision has it: one image; the result in the scale and zero point of the input."""
    if input.shape[0] != 1:
        raise RuntimeError(
            "roi_align: Only one image per batch is allowed where input is quantized, "
            f"got {input.shape[0]}"
        )
    plain = boxes.dequantize() if isinstance(boxes, Tensor) else [b.dequantize() for b in boxes]
    out = roi_align(input.dequantize(), plain, *settings)
    return torch.quantize_per_tensor(out, input.q_scale(), input.q_zero_point(), input.dtype)


def _boxes_to_rois(input: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """One ``[L, 4]`` for each image as ``[R, 5]``."""
    if not isinstance(boxes, (list, tuple)):
        raise TypeError(
            f"roi_align: boxes must be a tensor or a list of tensors, got {type(boxes).__name__}"
        )
    if len(boxes) > input.shape[0]:
        raise ValueError(
            f"roi_align: boxes must be one [L, 4] for each of the {input.shape[0]} images, "
            f"got {len(boxes)} of them"
        )
    indexed = []
    for number, each in enumerate(boxes):
        if not isinstance(each, Tensor):
            raise TypeError(
                f"roi_align: boxes must be a list of tensors, got {type(each).__name__} "
                f"for image {number}"
            )
        if each.dim() != 2 or each.shape[1] != 4:
            raise BoxesShapeError(
                "roi_align: a list of boxes must hold [L, 4] (x1, y1, x2, y2), "
                f"got shape {tuple(each.shape)} for image {number}"
            )
        check_floating("roi_align", **{f"boxes[{number}]": each})
        check_same_device("roi_align", input=input, **{f"boxes[{number}]": each})
        corners = each.to(accumulation_dtype(each.dtype))  # narrower ones would round the number
        indexed.append(torch.cat((corners.new_full((each.shape[0], 1), number), corners), dim=1))
    return torch.cat(indexed) if indexed else input.new_zeros((0, 5))


def _forward(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    output_size: list[int],
    sampling_ratio: int,
    aligned: bool,
    backend: str,
) -> Tensor:
    settings = (spatial_scale, output_size, sampling_ratio, aligned)
    chosen = choose_backend("roi_align", input.device, force=backend)
    if chosen == "reference":
        _check_values(rois, input.shape[0])
        return roi_align_reference(input, rois, *settings)
    out = _forward_fake(input, rois, *settings, backend)
    # Planes or channels last, at any distance from each other; another layout is copied.
    if input.stride(3) != 1 and input.stride(1) != 1:
        input = input.contiguous()
    _run(chosen, "roi.roi_align", input, out, rois, *settings)
    return out


def _backward(
    grad: Tensor,
    rois: Tensor,
    input_size: list[int],
    spatial_scale: float,
    output_size: list[int],
    sampling_ratio: int,
    aligned: bool,
    backend: str,
) -> Tensor:
    settings = (spatial_scale, output_size, sampling_ratio, aligned)
    chosen = choose_backend("roi_align_backward", grad.device, force=backend)
    if chosen == "reference":
        return roi_align_backward_reference(grad, rois, input_size, *settings)
    grad = grad.contiguous()
    if chosen == "cuda" and not torch.are_deterministic_algorithms_enabled():
        sums = grad.new_zeros(input_size, dtype=accumulation_dtype(grad.dtype))
        _run(chosen, "roi.roi_align_backward_atomic", sums, grad, rois, *settings)
        return sums.to(grad.dtype)
    out = _backward_fake(grad, rois, input_size, *settings, backend)
    _run(chosen, "roi.roi_align_backward", out, grad, rois, *settings)
    return out


def _run(
    backend: str,
    kernel: str,
    input: Tensor,
    bins: Tensor,
    rois: Tensor,
    spatial_scale: float,
    output_size: list[int],
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """Call a native kernel with the contract of csrc/roi/roi_align.h."""
    rois = rois.to(accumulation_dtype(bins.dtype)).contiguous()
    params = family("roi").RoiAlignParams(
        DTYPE_CODES[bins.dtype],
        input.data_ptr(),
        bins.data_ptr(),
        rois.data_ptr(),
        *input.shape,
        *input.stride(),
        rois.shape[0],
        *output_size,
        sampling_ratio,
        spatial_scale,
        aligned,
    )
    run(backend, kernel, bins.device, params)


def _check_values(rois: Tensor, num_images: int) -> None:
    if rois.device.type != "cpu":
        return  # reading values back would synchronise
    finite = rois.isfinite().all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0, 0])
        raise ValueError(f"roi_align: boxes must be finite, got {rois[row].tolist()} in row {row}")
    image = rois[:, 0]
    fits = (image >= 0) & (image < num_images) & (image == image.trunc())
    if not fits.all():
        row = int((~fits).nonzero()[0, 0])
        raise ValueError(
            "roi_align: the batch index of a box must be an integer below "
            f"{num_images}, got {image[row].item():g} in row {row}"
        )


def _forward_fake(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    output_size: list[int],
    sampling_ratio: int,
    aligned: bool,
    backend: str,
) -> Tensor:
    return input.new_empty((rois.shape[0], input.shape[1], *output_size))


def _backward_fake(
    grad: Tensor,
    rois: Tensor,
    input_size: list[int],
    spatial_scale: float,
    output_size: list[int],
    sampling_ratio: int,
    aligned: bool,
    backend: str,
) -> Tensor:
    return grad.new_empty(input_size)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, *ctx.settings = inputs
    ctx.input_size = input.shape
    ctx.save_for_backward(rois)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rois, _, *ctx.settings = inputs
    ctx.save_for_backward(rois)


def _input_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    grad_input = torch.ops.fastregion.roi_align_backward(grad, rois, ctx.input_size, *ctx.settings)
    return grad_input, None, None, None, None, None, None


def _second_gradient(ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    # The operator is linear in the input: the gradient of its gradient is the forward again.
    (rois,) = ctx.saved_tensors
    grad = torch.ops.fastregion.roi_align(grad_grad, rois, *ctx.settings)
    return grad, None, None, None, None, None, None, None


register(
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int[] output_size, "
    "int sampling_ratio, bool aligned, str backend) -> Tensor",
    _forward,
    _forward_fake,
)
register(
    "roi_align_backward(Tensor grad, Tensor rois, SymInt[] input_size, float spatial_scale, "
    "int[] output_size, int sampling_ratio, bool aligned, str backend) -> Tensor",
    _backward,
    _backward_fake,
)
register_gradient("roi_align", _input_gradient, _save_forward)
register_gradient("roi_align_backward", _second_gradient, _save_backward)
