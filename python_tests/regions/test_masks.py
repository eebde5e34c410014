"""Which values of a mask are inside, and mask files."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastregion.regions import Region
from fastregion.regions.masks import mask_values

SIZE = (48, 64)


def example_mask() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[10:30, 5:40] = True
    return mask


SAME = {
    "bool": lambda m: m,
    "uint8 0/1": lambda m: m.astype(np.uint8),
    "uint8 0/255": lambda m: m.astype(np.uint8) * 255,
    "uint8 0/7": lambda m: m.astype(np.uint8) * 7,
    "int64 0/1": lambda m: m.astype(np.int64),
    "uint16 0/65535": lambda m: m.astype(np.uint16) * 65535,
    "float32 0/1": lambda m: m.astype(np.float32),
    "float64 0/255": lambda m: m.astype(np.float64) * 255,
    "float64 resampled": lambda m: np.where(m, 1.0005, -0.0005),
    "float16 probabilities": lambda m: np.where(m, 0.51, 0.5).astype(np.float16),
    "uint8 soft": lambda m: np.where(m, np.uint8(128), np.uint8(127)) + (m & (np.arange(64) == 9)),
    "[1, H, W]": lambda m: m[None],
    "[H, W, 1]": lambda m: m[..., None],
    "Fortran order": np.asfortranarray,
    "not contiguous": lambda m: np.repeat(m, 2, axis=1)[:, ::2],
    "nested list": lambda m: m.tolist(),
    "tensor": torch.from_numpy,
    "bfloat16 tensor with gradient": lambda m: torch.from_numpy(m).bfloat16().requires_grad_(),
    "transposed tensor": lambda m: torch.from_numpy(m.T.copy()).T,
    "PIL 1": Image.fromarray,
    "PIL L": lambda m: Image.fromarray(m.astype(np.uint8) * 255),
    "PIL I;16": lambda m: Image.fromarray(m.astype(np.uint16) * 1000),
    "PIL F": lambda m: Image.fromarray(m.astype(np.float32)),
    "PIL P": lambda m: Image.fromarray(m.astype(np.uint8) * 5).convert("P"),
}


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("form", SAME)
def test_every_form_of_a_mask_is_the_same_mask(form: str) -> None:
    source = SAME[form](example_mask())
    before = np.array(source.detach().float() if isinstance(source, torch.Tensor) else source)
    values = mask_values(source, SIZE)
    assert values.dtype == np.bool_
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(values, example_mask())
    np.testing.assert_array_equal(Region.from_mask(source).mask, example_mask())
    after = np.array(source.detach().float() if isinstance(source, torch.Tensor) else source)
    np.testing.assert_array_equal(before, after)  # inputs are never changed


def with_nan() -> np.ndarray:
    mask = example_mask().astype(np.float32)
    mask[3, 4] = np.nan
    return mask


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (example_mask().T, ValueError, "mask: expected shape (48, 64) to match the image, got (64"),
        (np.zeros((48, 64, 3)), ValueError, "got (48, 64, 3) (3 channels; pass one of them"),
        (np.zeros((3, 48, 64)), ValueError, "got (3, 48, 64) (3 masks; pass them as a list"),
        (np.zeros(5), ValueError, "mask: expected shape (48, 64) to match the image, got (5,)"),
        (with_nan(), ValueError, "mask: must not contain NaN, got 1 NaN values"),
        (torch.from_numpy(with_nan()), ValueError, "mask: must not contain NaN, got 1 NaN values"),
        (example_mask() * 2.0, ValueError, "mask: floating-point values must lie in [0, 1], or be"),
        (example_mask() - 0.5, ValueError, "got values from -0.5 to 0.5; threshold it first"),
        (np.where(example_mask(), np.inf, 0), ValueError, "got values from 0 to inf"),
        (example_mask() * 1 - 1, ValueError, "mask: values must not be negative, got -1"),
        (np.arange(48 * 64).reshape(SIZE), ValueError, "mask: expected 0 and one other value"),
        (example_mask().astype(np.uint8) + 1, ValueError, "use Region.from_label_map"),
        (example_mask().astype(complex), TypeError, "mask: must be an array of bool, integers or"),
        (np.full(SIZE, "a"), TypeError, "mask: must be an array of bool, integers or"),
        ([[1, 0], [1]], TypeError, "mask: must be an array of bool, integers or floating-point"),
        (None, TypeError, "mask: must be an array of bool, integers or floating-point"),
        (Image.new("RGB", (64, 48)), ValueError, "mask: expected one channel (height, width), got"),
        (Image.new("LA", (64, 48)), ValueError, "got 2 channels (image mode LA)"),
        (Image.new("RGBA", (64, 48)), ValueError, "got 4 channels (image mode RGBA)"),
    ],
)
def test_refuses_what_is_no_mask(mask, error, message) -> None:
    with pytest.raises(error) as caught:
        mask_values(mask, SIZE)
    assert message in str(caught.value)


def test_palette_indices_are_labels_not_grey_values() -> None:
    labels = np.zeros(SIZE, np.uint8)
    labels[:5], labels[5:9] = 1, 200
    image = Image.new("P", (64, 48))
    image.putdata(labels.ravel())
    with pytest.raises(ValueError, match="mask: expected 0 and one other value, got several"):
        mask_values(image)
    assert mask_values(labels).sum() == 4 * 64  # as an array it is a soft mask


# ---- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp", ".npy"])
def test_reads_mask_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mask{suffix}"
    if suffix == ".npy":
        np.save(path, example_mask())
    else:
        Image.fromarray(example_mask().astype(np.uint8) * 255).save(path)
    for source in (path, str(path)):
        np.testing.assert_array_equal(mask_values(source, SIZE), example_mask())


def test_jpeg_noise_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "mask.jpg"
    Image.fromarray(example_mask().astype(np.uint8) * 255).save(path, quality=75)
    assert (mask_values(path) == example_mask()).mean() > 0.99


def test_orientation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    image = Image.fromarray(example_mask().T[:, ::-1])
    exif = Image.Exif()
    exif[0x0112] = 8  # stored turned: 90 degrees counter-clockwise sets it right
    image.save(path, exif=exif)
    np.testing.assert_array_equal(mask_values(path, SIZE), np.rot90(np.array(image)))


def damaged_file(kind: str, folder: Path) -> Path:
    path = folder / "mask.png"
    Image.fromarray(np.random.default_rng(0).random(SIZE) < 0.5).save(path)
    data = path.read_bytes()
    if kind == "folder":
        return folder
    if kind == "missing":
        return folder / "none.png"
    if kind == "pickle":
        path = folder / "mask.npy"
        np.save(path, np.array([print], object), allow_pickle=True)
        return path
    if kind == "bomb":
        header = b"IHDR" + struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0)
        path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])
        return path
    if kind == "NaN":
        path = folder / "mask.tiff"
        Image.fromarray(with_nan()).save(path)
        return path
    contents = {
        "empty": b"",
        "text": b"this is no image",
        "cut short": data[: len(data) // 2],
        "flipped bits": data[:60] + bytes(255 - byte for byte in data[60:-20]) + data[-20:],
        "bad header": data[:16] + b"\xff" * 8 + data[24:],
    }
    path.write_bytes(contents[kind])
    return path


DAMAGED = {
    "folder": (ValueError, "is a directory"),
    "missing": (FileNotFoundError, "no such file"),
    "empty": (ValueError, "is empty (0 bytes)"),
    "text": (ValueError, "is not a picture"),
    "cut short": (ValueError, "is damaged and cannot be decoded"),
    "flipped bits": (ValueError, "mask.png"),
    "bad header": (ValueError, "mask.png"),
    "bomb": (ValueError, "400,000,000 pixels, more than the limit"),
    "NaN": (ValueError, "must not contain NaN, got 1 NaN values"),
    "pickle": (ValueError, "is not an .npy file of numbers"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_refused(tmp_path: Path, kind: str) -> None:
    error, message = DAMAGED[kind]
    path = damaged_file(kind, tmp_path)
    for size in (SIZE, None):
        with pytest.raises(error) as caught:
            mask_values(path, size)
        assert str(caught.value).startswith("mask: ")
        assert message in str(caught.value)
        assert kind == "NaN" or str(path) in str(caught.value)


def test_a_file_of_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, "w+", np.float64, (30000, 30000)).flush()
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31))  # the file holds 7 GB
from fastregion.regions.masks import mask_values
try:
    mask_values({str(path)!r}, (48, 64))
except ValueError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    expected = "mask: expected shape (48, 64) to match the image, got (30000, 30000)"
    assert result.stdout.strip() == expected


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "no/such/folder/mask.png"])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="mask: no such file"):
        mask_values(name)
