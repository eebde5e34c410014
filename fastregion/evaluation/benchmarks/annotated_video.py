"""Videos whose objects are marked in some frames, as VideoRefer-Bench has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastregion.evaluation.benchmarks.rows import Row, check_in_folder
from fastregion.images import ImageSource
from fastregion.videos import VideoFile, is_video_path

__all__ = ["marked_frames", "read_marks", "video_frames"]

_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_marks(row: Row, key: str = "annotation") -> list[dict[int, Mapping[str, Any]]]:
    """For each object, the mask (a COCO RLE) of every frame in which it is marked.

    Args:
        row: with a list of objects: the number of a frame as text, and ``segmentation`` of it.
        key: of the list.

    Raises:
        ValueError: no object, an object without a frame, or what is no number or RLE.
    """
    objects = []
    for marks in row.rows(key, least=1):
        found = {}
        for number, mark in marks.items():
            if not number.isdecimal():
                raise marks.error(number, "expected the number of a frame")
            found[int(number)] = mark.rle("segmentation")
        if not found:
            raise row.error(key, "expected at least one frame for each object")
        objects.append(dict(sorted(found.items())))
    return objects


def marked_frames(objects: Sequence[Mapping[int, Any]]) -> tuple[int, ...]:
    """The frames in which any of them is marked, ascending."""
    return tuple(sorted(set().union(*objects)))


def video_frames(data: Path, name: str, numbers: Sequence[int]) -> list[ImageSource]:
    """Some frames of a video file, decoded; or of a folder of pictures, in the order of names.

    Args:
        data: the folder below which, or below ``videos`` in which, it lies.
        name: of the video.
        numbers: of the frames, from 0, ascending.

    Raises:
        FileNotFoundError: there is no such video.
        ValueError: it has fewer frames, or does not lie in the folder.
        ModuleNotFoundError: a video file, and nothing installed that reads it.
    """
    check_in_folder(name, "a video")
    places = [data / name, data / "videos" / name]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise FileNotFoundError(f"data: no video {name!r} below {str(data)!r}, or in its videos")
    frames: Sequence[ImageSource]
    if is_video_path(place):
        frames = VideoFile(place, argument="data")
        frames.check_memory(len(numbers))
    elif place.is_dir():
        frames = sorted(str(f) for f in place.iterdir() if f.suffix.lower() in _SUFFIXES)
    else:
        raise ValueError(f"data: {str(place)!r} is neither a video file nor a folder of frames")
    if numbers[-1] >= len(frames):
        raise ValueError(
            f"data: {str(place)!r} has {len(frames)} frames, expected frame {numbers[-1]}"
        )
    return [frames[number] for number in numbers]
