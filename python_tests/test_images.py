"""Reading pictures of every kind, and refusing what is none."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastregion.images import (
    DEFAULT_MAX_PIXELS,
    check_output_path,
    decode_image,
    load_image,
    open_image,
    open_image_bytes,
    upright_size,
)

ORIENTATION = 0x0112


def picture(height: int = 5, width: int = 7, channels: int = 3) -> np.ndarray:
    values = np.random.default_rng(3).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values[..., 0] if channels == 1 else values


def bomb_png(path: Path, width: int = 20_000, height: int = 20_000) -> Path:
    """A few bytes that declare a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)))
    return path


class TestFiles:
    @pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
    def test_rgb_is_read_as_it_is(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"picture.{suffix}"
        options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(picture()).save(path, **options)
        for source in (path, str(path)):
            image = load_image(source)
            assert image.dtype == np.uint8
            assert image.flags.c_contiguous
            assert image.flags.writeable
            np.testing.assert_array_equal(image, picture())

    def test_the_content_decides_and_not_the_name(self, tmp_path: Path) -> None:
        path = tmp_path / "picture.jpg"
        Image.fromarray(picture()).save(path, format="PNG")
        np.testing.assert_array_equal(load_image(path), picture())

    def test_exif_orientation_is_applied_once(self, tmp_path: Path) -> None:
        stored = picture()
        turned = {
            1: stored,
            2: stored[:, ::-1],
            3: stored[::-1, ::-1],
            4: stored[::-1],
            5: stored.transpose(1, 0, 2),
            6: np.rot90(stored, -1),
            7: stored[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(stored, 1),
        }
        for orientation, expected in turned.items():
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            path = tmp_path / f"{orientation}.png"
            Image.fromarray(stored).save(path, exif=exif)
            np.testing.assert_array_equal(load_image(path), expected)
            with Image.open(path) as image:
                np.testing.assert_array_equal(load_image(image), expected)
                assert image.getexif()[ORIENTATION] == orientation  # not modified
                np.testing.assert_array_equal(np.asarray(image), stored)
            np.testing.assert_array_equal(load_image(Image.fromarray(load_image(path))), expected)

    def test_unreadable_exif_is_no_orientation(self, tmp_path: Path) -> None:
        path = tmp_path / "picture.png"
        Image.fromarray(picture()).save(path, exif=b"Exif\0\0XX\0\x2anonsense")
        np.testing.assert_array_equal(load_image(path), picture())

    def test_sixteen_bit_gray_png(self, tmp_path: Path) -> None:
        values = np.array([[0, 128, 257, 32768, 65535]], dtype=np.uint16)
        Image.fromarray(values).save(tmp_path / "deep.png")
        expected = np.rint(values / 65535 * 255).astype(np.uint8)
        image = load_image(tmp_path / "deep.png")
        np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, axis=2))

    def test_big_endian_sixteen_bit_tiff(self, tmp_path: Path) -> None:
        values = np.array([[0, 257, 65535]], dtype=np.uint16)
        Image.frombytes("I;16B", (3, 1), values.astype(">u2").tobytes()).save(tmp_path / "b.tif")
        np.testing.assert_array_equal(load_image(tmp_path / "b.tif")[0, :, 0], [0, 1, 255])

    def test_palette_with_and_without_transparency(self, tmp_path: Path) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 100, 0])
        image.putpixel((1, 0), 1)
        image.save(tmp_path / "plain.png")
        image.save(tmp_path / "clear.png", transparency=1)
        assert load_image(tmp_path / "plain.png").tolist() == [[[10, 20, 30], [200, 100, 0]]]
        assert load_image(tmp_path / "clear.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]

    def test_first_frame_of_an_animation(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (4, 3), color) for color in ("red", "blue")]
        path = tmp_path / "moving.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with Image.open(path) as image:
            assert load_image(image)[0, 0].tolist() == [255, 0, 0]
        assert load_image(path)[0, 0].tolist() == [255, 0, 0]

    def test_file_is_closed(self, tmp_path: Path) -> None:
        Image.fromarray(picture()).save(tmp_path / "picture.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            load_image(tmp_path / "picture.png")


class TestModes:
    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
    def test_opaque_modes_follow_pillow(self, mode: str) -> None:
        image = Image.fromarray(picture()).convert(mode)
        np.testing.assert_array_equal(load_image(image), np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
    def test_transparency_shows_white(self, mode: str) -> None:
        rgba = Image.new("RGBA", (3, 1), (40, 40, 40, 255))
        rgba.putpixel((1, 0), (40, 40, 40, 0))
        rgba.putpixel((2, 0), (40, 40, 40, 128))
        if mode == "PA":
            image = Image.new("PA", (3, 1))
            image.putpalette([40, 40, 40])
            image.putdata([(0, 255), (0, 0), (0, 128)])
        else:
            image = rgba.convert("LA").convert("La") if mode == "La" else rgba.convert(mode)
        opaque, clear, half = load_image(image)[0, :, 0].tolist()
        assert (opaque, clear) == (40, 255)
        assert abs(half - (40 * 128 + 255 * 127) / 255) <= 1

    def test_int_and_float_modes(self) -> None:
        deep = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
        assert deep.mode == "I"
        assert load_image(deep)[0, :, 0].tolist() == [0, 255]
        unit = Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32))
        assert load_image(unit)[0, :, 0].tolist() == [0, 255]
        with pytest.raises(
            TypeError, match="image: dtype must be uint8, uint16 or float, got int32"
        ):
            load_image(Image.fromarray(np.array([[0, 65536]], dtype=np.int32)))


class TestArrays:
    def test_shapes(self) -> None:
        gray, color, clear = picture(channels=1), picture(), picture(channels=4)
        three = np.repeat(gray[..., None], 3, axis=2)
        np.testing.assert_array_equal(load_image(gray), three)
        np.testing.assert_array_equal(load_image(gray[..., None]), three)
        np.testing.assert_array_equal(load_image(color), color)
        expected = np.asarray(Image.fromarray(clear)).astype(float)
        alpha = expected[..., 3:] / 255
        expected = np.rint(expected[..., :3] * alpha + 255 * (1 - alpha))
        np.testing.assert_array_equal(load_image(clear), expected)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats(self, dtype: type) -> None:
        values = np.array([[0.0, 0.5, 1.0]], dtype=dtype)
        assert load_image(values)[0, :, 0].tolist() == [0, 128, 255]

    def test_float_that_resampling_overshot(self) -> None:
        assert load_image(np.array([[-1e-4, 1 + 1e-4]]))[0, :, 0].tolist() == [0, 255]

    def test_sixteen_bit_rgb(self) -> None:
        values = picture().astype(np.uint16) * 257
        np.testing.assert_array_equal(load_image(values), picture())
        np.testing.assert_array_equal(load_image(values.astype(">u2")), picture())

    def test_result_is_a_copy_and_the_input_is_untouched(self) -> None:
        for source in (picture(), torch.from_numpy(picture())):
            load_image(source)[:] = 0
            np.testing.assert_array_equal(np.asarray(source), picture())
        frozen = picture()
        frozen.flags.writeable = False
        assert load_image(frozen).flags.writeable
        clear = picture(channels=4)
        load_image(clear)
        np.testing.assert_array_equal(clear, picture(channels=4))

    def test_strided_views(self) -> None:
        np.testing.assert_array_equal(load_image(picture()[::-1, ::2]), picture()[::-1, ::2])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_tensors(self, dtype: torch.dtype) -> None:
        tensor = torch.from_numpy(picture())
        channels_first = tensor.permute(2, 0, 1)
        for source in (tensor, channels_first, channels_first.contiguous()):
            np.testing.assert_array_equal(load_image(source), picture())
        unit = (channels_first > 127).to(dtype).requires_grad_()
        np.testing.assert_array_equal(load_image(unit), (picture() > 127) * np.uint8(255))
        np.testing.assert_array_equal(load_image(tensor[..., 0])[..., 2], picture()[..., 0])

    @pytest.mark.parametrize(
        ("values", "error", "message"),
        [
            (np.zeros((3, 40, 50), np.uint8), ValueError, r"\(3, 40, 50\); for \[C, H, W\] use"),
            (np.zeros((1, 3, 4, 5), np.uint8), ValueError, r"got \(1, 3, 4, 5\)"),
            (np.zeros((4, 5, 2), np.uint8), ValueError, r"got \(4, 5, 2\)"),
            (np.zeros((0, 5, 3), np.uint8), ValueError, "is empty"),
            (np.zeros(5, np.uint8), ValueError, r"got \(5,\)"),
            (np.full((2, 2), np.nan), ValueError, "must be finite"),
            (np.full((2, 2), np.inf), ValueError, "must be finite"),
            (np.full((2, 2), 200.0), ValueError, r"must be in \[0, 1\], got 200 to 200"),
            (np.full((2, 2), -0.5), ValueError, r"must be in \[0, 1\]"),
            (np.zeros((2, 2), np.int64), TypeError, "got int64"),
            (np.zeros((2, 2), bool), TypeError, "looks like a mask"),
            (np.zeros((2, 2), complex), TypeError, "got complex128"),
            (np.array([["a"]]), TypeError, "dtype must be"),
        ],
    )
    def test_refused_arrays(self, values: np.ndarray, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message) as caught:
            load_image(values)
        assert str(caught.value).startswith("image: ")

    @pytest.mark.parametrize("source", [None, 3, [[1, 2]], {"size": 3}, b"\x89PNG"])
    def test_refused_types(self, source: Any) -> None:
        with pytest.raises(TypeError, match=r"photo: expected a path, a PIL image, an array"):
            load_image(source, argument="photo")


class TestRefusedFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"image: no such file: .*nothing\.png"):
            load_image(tmp_path / "nothing.png")

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"image: .* is a directory"):
            load_image(tmp_path)

    def test_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(ValueError, match=r"pipe\.png' is not a regular file"):
            load_image(tmp_path / "pipe.png")

    def test_zero_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "empty.png").touch()
        with pytest.raises(ValueError, match=r"image: .*empty\.png' is empty \(0 bytes\)"):
            load_image(tmp_path / "empty.png")

    @pytest.mark.parametrize("content", [b"hello, world\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
    def test_text_or_a_mere_signature(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "text.png").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"image: .*text\.png' (is not a picture|cannot be read)"
        ):
            load_image(tmp_path / "text.png")

    def test_postscript_is_never_run(self, tmp_path: Path) -> None:
        (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
        with pytest.raises(ValueError, match="is not a picture of a known format"):
            load_image(tmp_path / "page.eps")

    @pytest.mark.parametrize(("suffix", "keep"), [("png", 0.6), ("jpg", 0.5), ("bmp", 0.5)])
    def test_truncated(self, tmp_path: Path, suffix: str, keep: float) -> None:
        buffer = io.BytesIO()
        Image.fromarray(picture(64, 64)).save(buffer, format="jpeg" if suffix == "jpg" else suffix)
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * keep)])
        with pytest.raises(ValueError, match=rf"image: .*cut\.{suffix}' is damaged"):
            load_image(path)

    @pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks about odd metadata
    def test_flipped_bytes_never_escape_as_another_error(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for suffix in ("png", "jpeg", "gif", "tiff", "webp", "bmp"):
            buffer = io.BytesIO()
            Image.fromarray(picture(16, 16)).save(buffer, format=suffix)
            for _ in range(25):
                data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
                data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
                (tmp_path / "flipped").write_bytes(data.tobytes())
                try:
                    load_image(tmp_path / "flipped", max_pixels=1_000_000)
                except ValueError as error:
                    assert str(error).startswith("image: ")  # noqa: PT017


class TestPixelLimit:
    def test_bomb_is_refused_by_its_header(self, tmp_path: Path) -> None:
        path = bomb_png(tmp_path / "bomb.png")
        limit = Image.MAX_IMAGE_PIXELS
        with pytest.raises(ValueError, match=r"20000 x 20000 = 400,000,000 pixels.* 178,956,970"):
            load_image(path)
        assert limit == Image.MAX_IMAGE_PIXELS

    def test_no_warning_between_the_limits_of_pillow(self, tmp_path: Path) -> None:
        path = bomb_png(tmp_path / "large.png", 10_000, 10_000)
        with pytest.raises(ValueError, match="is damaged"):  # there is no data behind the header
            load_image(path)
        with open_image(path) as image:
            assert image.size == (10_000, 10_000)

    def test_limit_as_argument_and_as_environment_variable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "picture.png"
        Image.fromarray(picture(10, 10)).save(path)
        load_image(path, max_pixels=100)
        with pytest.raises(ValueError, match="more than the limit of 99"):
            load_image(path, max_pixels=99)
        monkeypatch.setenv("FASTREGION_MAX_PIXELS", "99")
        with pytest.raises(ValueError, match="more than the limit of 99"):
            load_image(path)
        with Image.open(path) as lazy, pytest.raises(ValueError, match="the PIL image has 10 x 10"):
            load_image(lazy)
        load_image(path, max_pixels=DEFAULT_MAX_PIXELS)

    @pytest.mark.parametrize("text", ["many", "-5", "0", ""])
    def test_wrong_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        Image.fromarray(picture()).save(tmp_path / "picture.png")
        monkeypatch.setenv("FASTREGION_MAX_PIXELS", text)
        with pytest.raises(ValueError, match="FASTREGION_MAX_PIXELS: expected a positive integer"):
            load_image(tmp_path / "picture.png")
        with pytest.raises(ValueError, match="max_pixels: expected a positive integer, got 0"):
            load_image(tmp_path / "picture.png", max_pixels=0)


def test_output_path(tmp_path: Path) -> None:
    for name in ("out.png", "OUT.JPG", "out.webp"):
        check_output_path(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    for name, message in [
        ("out", r"path: must end in one of \.png"),
        ("out.pdf", r"path: must end in one of \.png"),
        ("nowhere/out.png", r"path: folder .*nowhere' does not exist"),
        ("folder.png", r"path: .*folder\.png' is a directory"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_output_path(tmp_path / name)
    with pytest.raises(ValueError, match="--plot: must end in"):
        check_output_path("out", argument="--plot")


class TestOpenedPictures:
    def test_bytes_are_read_as_files_are(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        Image.fromarray(picture()).save(path)
        with open_image_bytes(path.read_bytes(), name="row 3") as image:
            assert upright_size(image) == picture().shape[:2]
            assert np.array_equal(decode_image(image, name="row 3"), load_image(path))
        with pytest.raises(ValueError, match="image: row 3 is not a picture of a known format"):
            open_image_bytes(b"no picture", name="row 3")
        with pytest.raises(
            ValueError, match=r"mask: row 3 has .* pixels, more than the limit of 1"
        ):
            open_image_bytes(path.read_bytes(), name="row 3", argument="mask", max_pixels=1)
        torn = path.read_bytes()[:-40]
        with (
            open_image_bytes(torn, name="row 3") as image,
            pytest.raises(ValueError, match="image: row 3 is damaged and cannot be decoded"),
        ):
            decode_image(image, name="row 3")

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
    def test_sizes_are_those_of_what_is_decoded(
        self, tmp_path: Path, orientation: int, suffix: str
    ) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        more = {} if suffix == "bmp" else {"exif": exif}
        Image.new("RGB", (7, 5)).save(tmp_path / f"a.{suffix}", **more)
        with open_image(tmp_path / f"a.{suffix}") as image:
            expected = load_image(tmp_path / f"a.{suffix}").shape[:2]
            assert upright_size(image) == expected
            assert expected == ((7, 5) if orientation > 4 and suffix != "bmp" else (5, 7))
