"""Any picture a user may hold, as one kind of array: uint8 RGB ``[H, W, 3]``.

Conventions:
    - The EXIF orientation of a file or PIL image is applied (once): regions refer to the picture as
      a viewer shows it.
    - Transparent pixels are composited over **white**, as a viewer does.
    - 16-bit values are scaled to 8 bits, ``round(v * 255 / 65535)``; floats are ``round(v * 255)``
      with ``v`` in [0, 1]. Gray becomes three equal channels. Of an animation, the first frame.
    - Colour profiles are not applied; CMYK is converted by Pillow's plain formula.

Nothing handed in is modified, and the result never shares memory with it.

Safety: the size of a file is read from its header and held against a limit *before* any pixel is
decoded, only raster formats are tried (no EPS, which would start Ghostscript), and only regular
files are opened.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "ImageSource",
    "RgbImage",
    "check_input_file",
    "check_output_path",
    "check_pixels",
    "decode_image",
    "load_image",
    "open_image",
    "open_image_bytes",
    "resize_image",
    "upright_size",
]

RgbImage: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | Tensor"

# The size at which Pillow itself refuses a picture: 179 million pixels, half a gigabyte of RGB.
DEFAULT_MAX_PIXELS = 178_956_970
MAX_PIXELS_VARIABLE = "FASTREGION_MAX_PIXELS"

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "TGA", "ICO")
_OUTPUT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_ACCEPTED = (
    "a path, a PIL image, an array [H, W], [H, W, 3] or [H, W, 4] (uint8, uint16 or float in "
    "[0, 1]) or a tensor [3, H, W] or [H, W, 3]"
)
_FLOAT_SLACK = 1e-3  # what resampling may overshoot [0, 1] by

_BROKEN_EXIF = (SyntaxError, ValueError, KeyError, TypeError, struct.error)

_pillow_limit_lock = threading.Lock()


def load_image(
    source: ImageSource, *, argument: str = "image", max_pixels: int | None = None
) -> RgbImage:
    """Read a picture from wherever it is.

    Args:
        source: a path; a PIL image of any mode; an array ``[H, W]`` (gray), ``[H, W, 1]``,
            ``[H, W, 3]`` (RGB) or ``[H, W, 4]`` (RGBA) of uint8, uint16 or finite floats in
            [0, 1]; or a tensor on any device, of the same dtypes, ``[H, W]``, ``[C, H, W]`` or
            ``[H, W, C]`` (where both readings are possible, ``[C, H, W]``).
        argument: name of the caller's argument, for error messages.
        max_pixels: largest width x height that is decoded. By default the environment variable
            ``FASTREGION_MAX_PIXELS``, else 178,956,970.

    Returns:
        A new C-contiguous uint8 array ``[H, W, 3]``.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the file is not a picture (empty, a directory, damaged, of an unknown format),
            the picture is larger than ``max_pixels``, or an array has another shape, values outside
            [0, 1] or values that are not finite.
        TypeError: another type or dtype.
    """
    if isinstance(source, (str, os.PathLike)):
        with open_image(source, argument=argument, max_pixels=max_pixels) as image:
            return decode_image(image, name=repr(os.fspath(source)), argument=argument)
    if isinstance(source, Image.Image):
        check_pixels(source.size, name="the PIL image", argument=argument, max_pixels=max_pixels)
        return _from_pil(source, argument)
    torch = sys.modules.get("torch")  # who holds a tensor has imported torch
    if torch is not None and isinstance(source, torch.Tensor):
        return _from_array(_tensor_to_array(source, argument), argument)
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return _from_array(np.asarray(source), argument)
    raise TypeError(f"{argument}: expected {_ACCEPTED}, got {type(source).__name__}")


def open_image(
    path: str | os.PathLike[str], *, argument: str = "image", max_pixels: int | None = None
) -> Image.Image:
    """Open a picture file without decoding its pixels, after all checks that need none.

    Args:
        path: a regular file of one of the raster formats.
        argument: name of the caller's argument, for error messages.
        max_pixels: as for :func:`load_image`.

    Returns:
        The lazy PIL image; the caller closes it. Decoding it may still raise OSError when the data
        is damaged.

    Raises:
        FileNotFoundError, ValueError: as for :func:`load_image`.
    """
    check_input_file(path, "an image file", argument=argument)
    return _open_checked(Path(path), repr(os.fspath(path)), argument, max_pixels)


def open_image_bytes(
    data: bytes, *, name: str, argument: str = "image", max_pixels: int | None = None
) -> Image.Image:
    """The same for a picture file whose bytes are in memory.

    Args:
        data: the file's content.
        name: of the picture, for error messages.
        argument: name of the caller's argument, for error messages.
        max_pixels: as for :func:`load_image`.

    Raises:
        ValueError: as for :func:`open_image`.
    """
    return _open_checked(io.BytesIO(data), name, argument, max_pixels)


def decode_image(image: Image.Image, *, name: str, argument: str = "image") -> RgbImage:
    """The pixels of an opened picture, as :func:`load_image` gives them.

    Raises:
        ValueError: the data is damaged.
    """
    try:
        image.load()
    except Exception as error:  # whatever a decoder trips over in damaged data
        raise ValueError(
            f"{argument}: {name} is damaged and cannot be decoded ({type(error).__name__}: {error})"
        ) from error
    return _from_pil(image, argument)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of what :func:`decode_image` gives, from the header where it tells.

    Raises:
        ValueError: the pixels had to be decoded, and the data is damaged.
    """
    # A PNG may hold its EXIF block behind the pixels, where Pillow looks only after decoding.
    if image.format in ("JPEG", "MPO", "WEBP") or (image.format == "PNG" and "exif" in image.info):
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        except _BROKEN_EXIF:
            orientation = None
        turned = orientation in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)
    if image.format == "PNG":
        return image.height, image.width
    height, width, _ = decode_image(image, name="the picture").shape
    return height, width


def check_input_file(path: str | os.PathLike[str], expected: str, *, argument: str) -> None:
    """Raise unless there is something to read: a regular file that is not empty.

    Args:
        path: the file.
        expected: what it should be, such as "an image file".
        argument: name of the caller's argument, for error messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a directory, a pipe, a device or an empty file.
    """
    name, file = os.fspath(path), Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{argument}: no such file: {name!r}")
    if not file.is_file():  # reading a pipe or a device might never end
        kind = "a directory" if file.is_dir() else "not a regular file"
        raise ValueError(f"{argument}: {name!r} is {kind}, expected {expected}")
    if file.stat().st_size == 0:
        raise ValueError(f"{argument}: {name!r} is empty (0 bytes)")


def check_pixels(
    size: tuple[int, int], *, name: str, argument: str, max_pixels: int | None
) -> None:
    """Raise ValueError for more pixels than may be decoded.

    Args:
        size: width and height.
        name: of the picture, for error messages.
        argument: name of the caller's argument, for error messages.
        max_pixels: as for :func:`load_image`.
    """
    limit = _limit(max_pixels)
    width, height = size
    if width * height > limit:
        raise ValueError(
            f"{argument}: {name} has {width} x {height} = {width * height:,} pixels, more than the "
            f"limit of {limit:,}; if you trust it, raise the limit with max_pixels or the "
            f"environment variable {MAX_PIXELS_VARIABLE}"
        )


def resize_image(
    image: npt.NDArray[Any], size: tuple[int, int], resampling: Image.Resampling
) -> npt.NDArray[Any]:
    """Resize by Pillow, columns first, then rows.

    In two calls: newer versions of Pillow take rows first for some sizes, and round otherwise.

    Args:
        image: uint8 ``[H, W]`` or ``[H, W, 3]``, or int32 ``[H, W]`` (nearest only).
        size: (height, width) of the result.
        resampling: Pillow's rule.
    """
    height, width = size
    picture = Image.fromarray(np.ascontiguousarray(image))
    narrow = picture.resize((width, picture.height), resampling)
    return np.array(narrow.resize((width, height), resampling))


def check_output_path(path: str | os.PathLike[str], *, argument: str = "path") -> None:
    """Raise ValueError unless a picture can be saved there.

    Args:
        path: in an existing folder, with the suffix of an image format.
        argument: name of the caller's argument, for error messages.
    """
    file = Path(path)
    if file.suffix.lower() not in _OUTPUT_SUFFIXES:
        raise ValueError(
            f"{argument}: must end in one of {', '.join(_OUTPUT_SUFFIXES)}, got {str(file)!r}"
        )
    if not file.parent.is_dir():
        raise ValueError(f"{argument}: folder {str(file.parent)!r} does not exist")
    if file.is_dir():
        raise ValueError(f"{argument}: {str(file)!r} is a directory")


def _open_checked(
    file: Path | io.BytesIO, name: str, argument: str, max_pixels: int | None
) -> Image.Image:
    try:
        image = _open_lazily(file)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{argument}: {name} is not a picture of a known format ({', '.join(_FORMATS)})"
        ) from error
    except Exception as error:  # no permission, or whatever a parser trips over in a broken header
        raise ValueError(
            f"{argument}: {name} cannot be read ({type(error).__name__}: {error})"
        ) from error
    try:
        check_pixels(image.size, name=name, argument=argument, max_pixels=max_pixels)
    except ValueError:
        image.close()
        raise
    return image


def _open_lazily(file: Path | io.BytesIO) -> Image.Image:
    """``Image.open`` without Pillow's own size limit, which warns at half the size and has no name.

    The limit is a global of Pillow, so it is lifted only while the header is read; our own check
    follows before anything is decoded.
    """
    with _pillow_limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=_known_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _known_formats() -> list[str]:
    Image.preinit()
    if any(name not in Image.OPEN for name in _FORMATS):
        Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]  # AVIF: only in newer Pillow


def _limit(max_pixels: int | None) -> int:
    name, value = "max_pixels", max_pixels
    if value is None:
        text = os.environ.get(MAX_PIXELS_VARIABLE)
        if text is None:
            return DEFAULT_MAX_PIXELS
        if not text.isdecimal():
            raise ValueError(f"{MAX_PIXELS_VARIABLE}: expected a positive integer, got {text!r}")
        name, value = MAX_PIXELS_VARIABLE, int(text)
    if value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value}")
    return value


def _from_pil(image: Image.Image, argument: str) -> RgbImage:
    image = _upright(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_array(_high_range_array(image), argument)
    if image.has_transparency_data:
        if image.mode == "La":  # has no direct conversion to RGBA
            image = image.convert("LA")
        return _over_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    """The first frame, decoded and turned as its EXIF orientation says; always a copy."""
    copy = image.copy()
    try:
        return ImageOps.exif_transpose(copy)
    except _BROKEN_EXIF:
        return copy  # an EXIF block that cannot be read states no orientation


def _high_range_array(image: Image.Image) -> npt.NDArray[Any]:
    """Pixels of a 16-bit, int32 or float image; int32 is what Pillow may read 16-bit files as."""
    values = np.asarray(image)
    if values.dtype.kind == "i" and values.size and values.min() >= 0 and values.max() <= 0xFFFF:
        values = values.astype(np.uint16)
    return values


def _tensor_to_array(tensor: Tensor, argument: str) -> npt.NDArray[Any]:
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise TypeError(f"{argument}: expected a plain dense tensor, got {tensor.layout}")
    if tensor.is_floating_point():
        tensor = tensor.float()  # NumPy has no bfloat16
    values: npt.NDArray[Any] = tensor.detach().cpu().resolve_conj().resolve_neg().numpy()
    if values.ndim == 3 and values.shape[0] in (1, 3, 4):
        values = values.transpose(1, 2, 0)
    return values


def _from_array(values: npt.NDArray[Any], argument: str) -> RgbImage:
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4):
        hint = ""
        if values.ndim == 3 and values.shape[0] in (1, 3, 4):
            hint = "; for [C, H, W] use array.transpose(1, 2, 0)"
        raise ValueError(
            f"{argument}: expected shape [H, W], [H, W, 3] or [H, W, 4], got {values.shape}{hint}"
        )
    if values.size == 0:
        raise ValueError(f"{argument}: is empty, got shape {values.shape}")
    pixels = _to_uint8(values, argument).reshape(*values.shape[:2], channels)
    if channels == 4:
        return _over_white(pixels)
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), order="C")


def _to_uint8(values: npt.NDArray[Any], argument: str) -> RgbImage:
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        wide = values.astype(np.uint32)
        return cast("RgbImage", ((wide * 255 + 32767) // 65535).astype(np.uint8))
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())  # NaN if any value is NaN
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"{argument}: values must be finite, got NaN or infinity")
        if low < -_FLOAT_SLACK or high > 1 + _FLOAT_SLACK:
            raise ValueError(
                f"{argument}: float values must be in [0, 1], got {low:.4g} to {high:.4g}; for "
                "0..255 use array.astype('uint8')"
            )
        unit = np.clip(values, 0, 1).astype(np.float32)
        return cast("RgbImage", np.rint(unit * 255).astype(np.uint8))
    hint = "; a bool array looks like a mask" if values.dtype == np.bool_ else ""
    raise TypeError(f"{argument}: dtype must be uint8, uint16 or float, got {values.dtype}{hint}")


def _over_white(rgba: RgbImage) -> RgbImage:
    color, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    blended = (color * alpha + 255 * (255 - alpha) + 127) // 255
    return cast("RgbImage", blended.astype(np.uint8))
