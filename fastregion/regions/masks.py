"""Masks as users hold them -> boolean arrays ``[H, W]``.

What counts as inside:

- bool: True.
- floating point: all values in [0, 1] (a probability): above 0.5. Only the values 0 and 255:
  255. Anything else is refused, NaN included; logits need a threshold first (``mask > 0``).
- integers with 0 and one other value: the other value.
- uint8 with more values, of which the largest is at least 128: a soft mask, 0 to 255; above 127.
- other integers with several values: a label map, which is more than one region: refused.

Images (PIL or a file) have one channel: modes ``1``, ``L``, ``P`` (palette index, as integers;
never a soft mask), ``I``, ``I;16``, ``F``. Their EXIF orientation is applied, as it is to
photographs.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastregion.regions.sizes import MAX_PIXELS, Size

_FLOAT_SLACK = 1e-3  # what resampling may overshoot [0, 1] by
_SOFT_THRESHOLD = 127  # of 255: the integer form of "above one half"


def mask_values(source: Any, size: Size | None = None) -> NDArray[np.bool_]:
    """Return one mask as a C-contiguous boolean array ``[H, W]``.

    Args:
        source: an array or tensor ``[H, W]`` (or with a channel axis of length 1), a PIL image, or
            the path of a mask image or ``.npy`` file.
        size: (height, width) of the image it belongs to; then the shape must match.

    Raises:
        FileNotFoundError: no such file.
        TypeError: a type or dtype that is no mask.
        ValueError: another shape, several channels, NaN or values outside the ranges of this
            module, or a file that is empty or is no image.
    """
    if isinstance(source, str | os.PathLike):
        array = _read_file(Path(source), size)
    elif is_pil_image(source):
        array = _from_pil(source)
    else:
        array = to_numpy("mask", source)
    array = _drop_channel(array)
    expected = "(height, width)" if size is None else f"{size} to match the image"
    if array.ndim != 2:
        raise ValueError(f"mask: expected shape {expected}, got {array.shape}{_hint(array.shape)}")
    if size is not None and array.shape != size:
        raise ValueError(f"mask: expected shape {expected}, got {array.shape}")
    if array.size == 0:
        raise ValueError(f"mask: must have pixels, got shape {array.shape}")
    return np.ascontiguousarray(_binarize(array))


def _binarize(array: NDArray[Any]) -> NDArray[np.bool_]:
    kind = array.dtype.kind
    if kind == "b":
        return array.astype(np.bool_, copy=False)
    if kind not in "iuf":
        raise TypeError(f"mask: must be bool, integer or floating point, got {array.dtype}")
    low, high = array.min(), array.max()
    if kind == "f":
        return _binarize_float(array, float(low), float(high))
    if low < 0:
        raise ValueError(f"mask: values must not be negative, got {low}")
    if high <= 1 or np.count_nonzero(array) == np.count_nonzero(array == high):
        return np.asarray(array != 0)
    if array.dtype == np.uint8 and high > _SOFT_THRESHOLD:
        return np.asarray(array > _SOFT_THRESHOLD)
    raise ValueError(
        f"mask: expected 0 and one other value, got several (up to {high}); if these are labels, "
        "use Region.from_label_map, or pick one: labels == value"
    )


def _binarize_float(array: NDArray[Any], low: float, high: float) -> NDArray[np.bool_]:
    if np.isnan(low):  # the minimum of anything with a NaN is NaN
        count = int(np.count_nonzero(np.isnan(array)))
        raise ValueError(f"mask: must not contain NaN, got {count} NaN values")
    if low >= -_FLOAT_SLACK and high <= 1 + _FLOAT_SLACK:
        return np.asarray(array > 0.5)
    if np.isin(array, (0, 255)).all():
        return np.asarray(array > 0)
    raise ValueError(
        "mask: floating-point values must lie in [0, 1], or be 0 and 255 only, "
        f"got values from {low:g} to {high:g}; threshold it first, e.g. mask > 0"
    )


def to_numpy(name: str, source: Any) -> NDArray[Any]:
    """Return an array or tensor of numbers as NumPy, without importing torch."""
    if is_tensor(source):
        source = source.detach().cpu()
        if str(source.dtype) == "torch.bfloat16":  # NumPy has none
            source = source.float()
        return np.asarray(source.numpy())
    try:
        array = np.asarray(source)
    except ValueError:  # nested lists of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name}: must be an array of bool, integers or floating-point numbers, "
            f"got {type(source).__name__} of dtype {array.dtype}"
        )
    return array


def is_tensor(thing: Any) -> bool:
    """Tell torch tensors; if torch is not loaded there are none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.Tensor)


def is_pil_image(thing: Any) -> bool:
    """Tell PIL images; if PIL is not loaded there are none."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(thing, pil.Image)


def _drop_channel(array: NDArray[Any]) -> NDArray[Any]:
    """Turn [1, H, W] and [H, W, 1] into [H, W]."""
    if array.ndim == 3 and array.shape[0] == 1:
        return np.squeeze(array, axis=0)
    if array.ndim == 3 and array.shape[2] == 1:
        return np.squeeze(array, axis=2)
    return array


def _hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[2] in (2, 3, 4):
        return f" ({shape[2]} channels; pass one of them, e.g. mask[..., 0])"
    if len(shape) == 3:
        return f" ({shape[0]} masks; pass them as a list of regions)"
    return ""


def _from_pil(image: Any) -> NDArray[Any]:
    from PIL import ImageOps

    channels = image.getbands()
    if len(channels) != 1:
        raise ValueError(
            f"mask: expected one channel (height, width), got {len(channels)} channels "
            f"(image mode {image.mode}); pass one of them, e.g. image.getchannel(0)"
        )
    values: NDArray[Any] = np.asarray(ImageOps.exif_transpose(image))
    # Palette indices are labels, never grey values: keep them from being read as a soft mask.
    return values.astype(np.int32) if image.mode == "P" else values


def _read_file(path: Path, size: Size | None) -> NDArray[Any]:
    try:
        found = path.exists()
    except (OSError, ValueError):  # a name that no file can have
        found = False
    if not found:
        raise FileNotFoundError(f"mask: no such file: {str(path)!r}")
    return _read_npy(path, size) if path.suffix == ".npy" else _read_image(path, size)


def _read_npy(path: Path, size: Size | None) -> NDArray[Any]:
    if not path.is_file():  # reading a pipe or a device might never end
        raise ValueError(f"mask: {str(path)!r} is not a regular file")
    try:
        # Mapped, not read: the shape is judged before the values cost memory.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # damaged files raise nearly anything
        raise ValueError(f"mask: {str(path)!r} is not an .npy file of numbers") from None
    _check_pixels(array.shape, size)
    return np.array(array)


def _read_image(path: Path, size: Size | None) -> NDArray[Any]:
    from fastregion.images import open_image

    with open_image(path, argument="mask") as image:  # reads only the header
        _check_pixels((image.height, image.width), size)
        try:
            image.load()
        except Exception as error:  # whatever a decoder trips over in damaged data
            raise ValueError(
                f"mask: {str(path)!r} is damaged and cannot be decoded ({error})"
            ) from error
        return _from_pil(image)


def _check_pixels(shape: tuple[int, ...], size: Size | None) -> None:
    """Refuse a file whose pixels cannot be those of the mask; its shape is judged later."""
    pixels = math.prod(shape)
    if size is not None and pixels != math.prod(size):
        raise ValueError(f"mask: expected shape {size} to match the image, got {shape}")
    if pixels > MAX_PIXELS:
        raise ValueError(f"mask: must have at most {MAX_PIXELS} pixels, got shape {shape}")
