"""Pictures as data URLs, for judges' messages and reports that need no other file."""

from __future__ import annotations

import base64
import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["data_url"]


def data_url(
    pixels: NDArray[Any], format: Literal["PNG", "JPEG"] = "PNG", *, quality: int = 90
) -> str:
    """Encode a picture.

    Args:
        pixels: uint8 RGB ``[H, W, 3]`` or gray ``[H, W]``; or a mask, bool ``[H, W]``, which is
            drawn white on black.
        format: of the encoded picture.
        quality: of a JPEG, 1 to 95.

    Returns:
        ``data:image/...;base64,...``.

    Raises:
        TypeError, ValueError: another dtype, or another shape.
    """
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8:
        raise TypeError(f"pixels: dtype must be uint8 or bool, got {pixels.dtype}")
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or pixels.shape[2:] not in ((), (3,)):
        raise ValueError(f"pixels: expected shape [H, W] or [H, W, 3], got {pixels.shape}")
    buffer = io.BytesIO()
    options = {"quality": quality} if format == "JPEG" else {}
    Image.fromarray(pixels).save(buffer, format=format, **options)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{format.lower()};base64,{text}"
