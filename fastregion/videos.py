"""The frames of a video file, decoded when they are asked for (PyAV, the extra ``video``).

Conventions are those of :mod:`fastregion.images`: uint8 RGB ``[H, W, 3]``, turned as the file's
rotation says. Frames are numbered as they are shown, from 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from fastregion.images import RgbImage, check_input_file, check_pixels

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["VideoFile", "is_video_path"]

_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
# Frames that a request keeps decoded at the same time, in bytes.
_MAX_DECODED = 4 * 2**30


def is_video_path(source: Any) -> bool:
    """Whether it is a path with the suffix of a video file."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = os.fspath(source)
    return isinstance(path, str) and path.lower().endswith(_SUFFIXES)


class VideoFile(Sequence[RgbImage]):
    """The frames of a file, as a sequence; fast in ascending order.

    Only the newest frame is kept. Going back decodes from the beginning again.

    Args:
        path: the file.
        argument: name of the caller's argument, for error messages.
        max_pixels: of a frame, as for :func:`fastregion.images.load_image`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no video, or its frames have more than ``max_pixels``. Also when indexed,
            at a frame that cannot be decoded.
        ModuleNotFoundError: PyAV is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        argument: str = "image",
        max_pixels: int | None = None,
    ) -> None:
        self._path, self._argument = os.fspath(path), argument
        self._container: InputContainer | None = None
        check_input_file(path, "a video file", argument=argument)
        container = self._open()
        stream = container.streams.video[0]
        check_pixels(
            (stream.width, stream.height),
            name=repr(self._path),
            argument=argument,
            max_pixels=max_pixels,
        )
        # Headers may state another number, or none; a packet holds a frame.
        self._length: int = sum(
            packet.size > 0 and not packet.is_discard for packet in container.demux(stream)
        )
        self._frame_bytes = 3 * stream.width * stream.height
        if not self._length:
            raise ValueError(f"{argument}: {self._path!r} has no frame")
        self._restart()

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> RgbImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[RgbImage]: ...

    def __getitem__(self, index: int | slice) -> RgbImage | list[RgbImage]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of a video with {len(self)}")
        index %= len(self)
        if index < self._newest:
            self._restart()
        while self._newest < index:
            self._frame = self._decode(self._newest + 1)
            self._newest += 1
        # A rotation is counterclockwise, as that of rot90.
        turned = np.rot90(self._frame.to_ndarray(format="rgb24"), self._frame.rotation // 90)
        return np.ascontiguousarray(turned)

    def check_memory(self, num_frames: int) -> None:
        """Raise ValueError where that many frames are too many to be kept decoded."""
        size = num_frames * self._frame_bytes
        if size > _MAX_DECODED:
            raise ValueError(
                f"{self._argument}: {num_frames:,} frames of {self._path!r} take "
                f"{size / 2**30:.1f} GiB decoded, more than {_MAX_DECODED // 2**30} GiB; pass a "
                "list of fewer frames"
            )

    def _decode(self, index: int) -> Any:
        try:
            return next(self._frames)
        except Exception as error:  # the end, or whatever a decoder trips over in damaged data
            raise ValueError(
                f"{self._argument}: frame {index} of {self._length} of {self._path!r} cannot be "
                f"decoded ({type(error).__name__})"
            ) from error

    def _open(self) -> InputContainer:
        try:
            import av
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{self._argument}: reading video files needs PyAV: pip install 'fastregion[video]'"
            ) from error
        if self._container is not None:
            self._container.close()
        try:
            self._container = av.open(self._path)
        except av.error.FFmpegError as error:
            raise ValueError(
                f"{self._argument}: {self._path!r} cannot be read as a video "
                f"({type(error).__name__}: {error.strerror})"
            ) from error
        if not self._container.streams.video:
            raise ValueError(f"{self._argument}: {self._path!r} has no video stream")
        return self._container

    def _restart(self) -> None:
        container = self._open()
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        self._frames: Iterator[Any] = container.decode(stream)
        self._newest, self._frame = -1, None
