"""What a caller gives a captioner as image and regions: a picture, or the frames of a video."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastregion.images import ImageSource, RgbImage, load_image
from fastregion.models.request import VideoRequest, is_one_region
from fastregion.regions import as_regions

if TYPE_CHECKING:
    from fastregion.models.base import Captioner

__all__ = ["single_image", "video_request"]

_VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def single_image(captioner: Captioner, image: Any) -> RgbImage:
    """Load a picture.

    Raises:
        FileNotFoundError, TypeError, ValueError: as for ``load_image``.
        NotImplementedError: a video, as a file or as frames.
    """
    is_file = isinstance(image, (str, os.PathLike)) and os.fspath(image).lower().endswith(
        _VIDEO_SUFFIXES
    )
    if is_file or isinstance(image, (list, tuple)):
        _check_reads_video(captioner)
        raise NotImplementedError(
            "image: video files are not read yet; pass a list of frames"
            if is_file
            else "image: expected a single image; only describe takes the frames of a video"
        )
    return load_image(image)


def video_request(
    captioner: Captioner, frames: Sequence[ImageSource], regions: Any, prompt: str | None
) -> tuple[VideoRequest, bool]:
    """The request about a video, and whether it is about one object.

    Raises:
        FileNotFoundError, TypeError, ValueError: as for ``VideoRequest.of``.
        NotImplementedError: the captioner describes single images only, or there is one region and
            nothing that finds it in the other frames.
    """
    _check_reads_video(captioner)
    if frames:
        start = load_image(frames[0])
        frames, size = [start, *frames[1:]], start.shape[:2]
        empty = isinstance(regions, (list, tuple)) and not regions
        if is_one_region(regions, size) and not empty:
            if captioner.propagate is None:
                raise NotImplementedError(
                    "regions: got one region of a video; pass a list with a region for each "
                    "frame, or set propagate of the captioner to a function that finds the "
                    "region of the first frame in the others"
                )
            images = [load_image(frame) for frame in frames]
            (first,) = as_regions(regions, size)
            frames, regions = images, list(captioner.propagate(images, first))
    return VideoRequest.of(frames, regions, prompt, captioner.frames_looked_at(len(frames)))


def _check_reads_video(captioner: Captioner) -> None:
    if not captioner.max_frames:
        raise NotImplementedError(
            f"image: {captioner.model_id} describes single images, not video; "
            "nvidia/DAM-3B-Video, HaochenWang/GAR-1B and HaochenWang/GAR-8B do. Pass one frame"
        )
