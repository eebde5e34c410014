"""Reading video files. The files are made here, without loss, so that frames are equal."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_gar

from fastregion.videos import VideoFile, is_video_path

av = pytest.importorskip("av")
SIZE = (48, 64)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(20)]


def write(path: Path, frames: list[np.ndarray], codec: str = "ffv1", format: str = "bgr0") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = format
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, frames: list[np.ndarray]) -> Path:
    return write(tmp_path_factory.mktemp("video") / "clip.MKV", frames)


def test_frames(path: Path, frames: list[np.ndarray]) -> None:
    video = VideoFile(path)
    assert len(video) == 20
    for k in (0, 1, 7, 7, 19, 3, -1, -20):  # forward, again, and back
        assert video[k].dtype == np.uint8
        np.testing.assert_array_equal(video[k], frames[k])
    assert len(video[5:8]) == 3
    np.testing.assert_array_equal(video[5:8], frames[5:8])
    with pytest.raises(IndexError, match="frame 20 of a video with 20"):
        video[20]


def test_frames_are_decoded_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = VideoFile(path)
    decoded: list[int] = []
    decode = VideoFile._decode
    monkeypatch.setattr(
        VideoFile, "_decode", lambda self, index: decoded.append(index) or decode(self, index)
    )
    for k in (0, 0, 4, 4, 9):
        video[k]
    assert decoded == list(range(10))


def test_frames_that_are_stored_out_of_order(tmp_path: Path, frames: list[np.ndarray]) -> None:
    """H.264 shows frames in another order than it stores them; brightness tells which one it is."""
    steps = [np.full((*SIZE, 3), 12 * k, np.uint8) for k in range(20)]
    video = VideoFile(write(tmp_path / "clip.mp4", steps, "libx264", "yuv420p"))
    assert len(video) == 20
    assert [round(float(frame.mean()) / 12) for frame in video] == list(range(20))


def test_a_rotated_file(tmp_path: Path) -> None:
    """As phones write them: a matrix in the header turns the picture clockwise."""
    step = np.zeros((*SIZE, 3), np.uint8)
    step[:24, :32] = 255
    path = write(tmp_path / "clip.mp4", [step] * 3, "libx264", "yuv420p")
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes
    one = 1 << 16
    assert struct.unpack(">9i", data[start : start + 36])[0] == one
    data[start : start + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, SIZE[0] * one, 0, 1 << 30)
    path.write_bytes(data)
    frame = VideoFile(path)[0]
    assert frame.shape == (64, 48, 3)
    assert np.abs(frame.astype(int) - np.rot90(step, -1)).mean() < 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"no video at all" * 99), "cannot be read as a video"),
        (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda path: path.mkdir(), "is a directory, expected a video file"),
    ],
)
def test_files_that_are_none(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=f"image: .*clip.mp4.* {message}"):
        VideoFile(tmp_path / "clip.mp4")


def test_a_damaged_file(tmp_path: Path, path: Path) -> None:
    data = path.read_bytes()
    (tmp_path / "clip.mkv").write_bytes(data[:1000] + bytes(len(data) // 2))
    with pytest.raises(ValueError, match=r"image: .*clip\.mkv"):
        list(VideoFile(tmp_path / "clip.mkv"))


def test_limits(path: Path) -> None:
    with pytest.raises(ValueError, match="64 x 48 = 3,072 pixels, more than the limit of 1,000"):
        VideoFile(path, max_pixels=1000)
    video = VideoFile(path)
    video.check_memory(len(video))
    with pytest.raises(ValueError, match=r"500,000 frames of .* take 4\.3 GiB decoded"):
        video.check_memory(500_000)


def test_paths() -> None:
    assert is_video_path("a/b.mp4")
    assert is_video_path(Path("B.MOV"))
    assert not is_video_path("a.png")
    assert not is_video_path(np.zeros(3))


def test_a_captioner_reads_them(path: Path, frames: list[np.ndarray]) -> None:
    captioner = tiny_gar.captioner()
    mask = np.zeros(SIZE, bool)
    mask[10:30, 10:40] = True
    masks = [mask] * 20
    expected = captioner.describe(frames, masks, max_new_tokens=4)
    assert captioner.describe(path, masks, max_new_tokens=4) == expected
    assert captioner.describe(str(path), [masks, masks], max_new_tokens=4) == [expected] * 2
    captioner.propagate = lambda given, region: [region.mask] * len(given)
    assert captioner.describe(path, mask, max_new_tokens=4) == expected
    with pytest.raises(ValueError, match="expected one for each of 20 frames, got 3"):
        captioner.describe(path, masks[:3], max_new_tokens=4)
