"""What a caller gives a captioner as image and regions: a picture, or the frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastregion.images import ImageSource, RgbImage, load_image
from fastregion.models.request import VideoRequest, is_one_region
from fastregion.regions import as_regions
from fastregion.videos import VideoFile, is_video_path

if TYPE_CHECKING:
    from fastregion.models.base import Captioner

__all__ = ["single_image", "video_request"]


def single_image(captioner: Captioner, image: Any) -> RgbImage:
    """Load a picture.

    Raises:
        FileNotFoundError, TypeError, ValueError: as for ``load_image``.
        NotImplementedError: a video, as a file or as frames.
    """
    if isinstance(image, (list, tuple)) or is_video_path(image):
        _check_reads_video(captioner)
        raise NotImplementedError("image: expected a single image; only describe takes videos")
    return load_image(image)


def video_request(
    captioner: Captioner, source: Any, regions: Any, prompt: str | None
) -> tuple[VideoRequest, bool]:
    """The request about a video, a list of frames or a file, and whether it is about one object.

    Raises:
        FileNotFoundError, TypeError, ValueError: as for ``VideoFile`` and ``VideoRequest.of``.
        ModuleNotFoundError: a file, and nothing installed that reads it.
        NotImplementedError: the captioner describes single images only, or there is one region and
            nothing that finds it in the other frames.
    """
    _check_reads_video(captioner)
    frames: Sequence[ImageSource] = VideoFile(source) if is_video_path(source) else source
    chosen = captioner.frames_looked_at(len(frames))
    if frames:
        start = load_image(frames[0])
        if not isinstance(frames, VideoFile):
            frames = [start, *frames[1:]]
        size = start.shape[:2]
        empty = isinstance(regions, (list, tuple)) and not regions
        one_region = is_one_region(regions, size) and not empty
        if one_region and captioner.propagate is None:
            raise NotImplementedError(
                "regions: got one region of a video; pass a list with a region for each frame, or "
                "set propagate of the captioner to a function that finds the region of the first "
                "frame in the others"
            )
        if isinstance(frames, VideoFile):
            frames.check_memory(len(frames) if one_region else len(chosen))
        if one_region:
            assert captioner.propagate is not None
            images = [load_image(frame) for frame in frames]
            (first,) = as_regions(regions, size)
            frames, regions = images, list(captioner.propagate(images, first))
    return VideoRequest.of(frames, regions, prompt, chosen)


def _check_reads_video(captioner: Captioner) -> None:
    if not captioner.max_frames:
        raise NotImplementedError(
            f"image: {captioner.model_id} describes single images, not video; "
            "nvidia/DAM-3B-Video, HaochenWang/GAR-1B and HaochenWang/GAR-8B do. Pass one frame"
        )
