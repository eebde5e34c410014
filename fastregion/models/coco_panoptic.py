"""COCO panoptic files: a JSON file of annotations, and a PNG of segment ids for each image.

In a PNG, a pixel's segment is ``R + 256 G + 65536 B``; 0 is void. The captions of segments stand
beside their categories: as ``description`` in Pix2Cap-COCO, as ``caption`` in predictions.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastregion.images import open_image
from fastregion.json_files import read_json_file
from fastregion.models.categories import COCO_PANOPTIC, Category
from fastregion.models.segment import Segment
from fastregion.regions import Region

__all__ = [
    "MissingImageError",
    "PanopticFiles",
    "PanopticImage",
    "SegmentIdError",
    "UnknownCategoryError",
    "caption_of",
    "write_panoptic",
]

_MAX_JSON_BYTES = 1 << 29  # COCO's own file of 118,000 images is below
_LARGEST_ID = (1 << 24) - 1


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_score(value: object) -> bool:
    return value is None or _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# What a segment may have beside its id and category.
_SEGMENT_KEYS: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("caption", _is_text, "text"),
    ("description", _is_text, "text"),
    ("score", _is_score, "a number or null"),
    ("iscrowd", lambda value: value in (0, 1), "0 or 1"),
)


class SegmentIdError(ValueError):
    """An annotation and its PNG, or two segments, disagree about ids."""


class UnknownCategoryError(ValueError):
    """A segment of a category that nobody has declared."""


class MissingImageError(ValueError):
    """An image without an annotation, or a prediction, of its own."""


@dataclass(frozen=True, eq=False)
class PanopticImage:
    """The segments of one image.

    Attributes:
        image_id: what files call the image.
        file_name: of the picture, without a folder.
        size: (height, width) in pixels.
        segments: bound to this size, not empty, not overlapping, with ids from 1 to 2**24 - 1.

    Raises:
        SegmentIdError: ids that are no such integers, or that come twice.
        ValueError: segments of another size, without a pixel, or that overlap.
    """

    image_id: int | str
    file_name: str
    size: tuple[int, int]
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        self.id_map()  # judges the segments

    def id_map(self) -> NDArray[np.int32]:
        """Segment ids ``[H, W]``; 0 is void."""
        ids = np.zeros(self.size, np.int32)
        seen: set[object] = set()
        for segment in self.segments:
            where = f"segments: segment {segment.id!r} of image {self.image_id!r}"
            if not isinstance(segment.id, int) or not 1 <= segment.id <= _LARGEST_ID:
                raise SegmentIdError(f"{where}: the id must be an integer in [1, {_LARGEST_ID}]")
            if segment.id in seen:
                raise SegmentIdError(f"{where}: the id comes twice")
            seen.add(segment.id)
            if segment.size != self.size:
                raise ValueError(f"{where}: must have size {self.size}, got {segment.size}")
            mask = segment.mask
            if not mask.any():
                raise ValueError(f"{where}: has no pixel")
            if (taken := ids[mask]).any():
                raise ValueError(f"{where}: overlaps segment {taken.max()}")
            ids[mask] = segment.id
        return ids


class PanopticFiles:
    """Annotations or predictions in COCO panoptic format; PNGs are read when they are asked for.

    Attributes:
        image_ids: of the images with an annotation, in the order of the file.
        categories: by id: COCO's own, and those that the file declares.
    """

    def __init__(
        self, json_file: str | os.PathLike[str], png_folder: str | os.PathLike[str] | None = None
    ) -> None:
        """Read the annotations.

        Args:
            json_file: at most 512 MiB.
            png_folder: of the PNGs; by default beside the file, with its name without the suffix.

        Raises:
            FileNotFoundError: no such file.
            UnknownCategoryError: a segment of a category that neither the file nor COCO declares.
            ValueError: not JSON, too large, or not of the format; the message names the file.
        """
        self.json_file = Path(json_file)
        self.png_folder = Path(png_folder) if png_folder else self.json_file.with_suffix("")
        content = read_json_file(self.json_file, _MAX_JSON_BYTES, "annotations")
        annotations = self._list(content, "annotations")
        self._images = {
            self._value(image, "id", int | str): image for image in self._list(content, "images")
        }
        for image_id, image in self._images.items():
            self._check_image(image, image_id)
        self.categories = {category.id: category for category in COCO_PANOPTIC}
        for entry in self._list(content, "categories", required=False):
            values = (self._value(entry, "id", int), self._value(entry, "name", str))
            isthing = bool(self._value(entry, "isthing", int))
            try:
                category = Category(*values, isthing=isthing)
            except (TypeError, ValueError) as error:
                raise self._error(str(error)) from error
            self.categories[category.id] = category
        self._annotations: dict[int | str, Mapping[str, Any]] = {}
        for annotation in annotations:
            image_id = self._value(annotation, "image_id", int | str)
            if image_id in self._annotations:
                raise self._error(f"image {image_id!r} has two annotations")
            name = self._value(annotation, "file_name", str)
            if Path(name).name != name:
                raise self._error(f"file_name must be without a folder, got {name!r}")
            for segment in self._list(annotation, "segments_info"):
                self._check_segment(segment, image_id)
            self._annotations[image_id] = annotation
        self.image_ids: tuple[int | str, ...] = tuple(self._annotations)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __iter__(self) -> Iterator[PanopticImage]:
        return (self.read(image_id) for image_id in self.image_ids)

    def read(self, image_id: int | str) -> PanopticImage:
        """The segments of one image.

        Raises:
            MissingImageError: the file has no annotation of this image.
            SegmentIdError: the annotation and the PNG hold different ids.
            FileNotFoundError, ValueError: the PNG is missing, damaged, no RGB picture, or of
                another size than the image.
        """
        annotation = self._annotation(image_id)
        infos = annotation["segments_info"]
        image = self._images.get(image_id, {})
        size = (image["height"], image["width"]) if {"height", "width"} <= image.keys() else None
        file = self.png_folder / annotation["file_name"]
        ids = _read_ids(file, size)
        written = [info["id"] for info in infos]
        found = set(np.unique(ids).tolist()) - {0}
        only_json, only_png = sorted(set(written) - found), sorted(found - set(written))
        if only_json or only_png or len(set(written)) < len(written):
            raise SegmentIdError(
                f"annotations: image {image_id!r}: segment ids of {self.json_file.name} and "
                f"{str(file)!r} must agree, got only in the JSON: {only_json}, only in the PNG: "
                f"{only_png}, twice: {sorted({i for i in written if written.count(i) > 1})}"
            )
        segments = tuple(
            Segment.of(
                Region.from_mask(ids == info["id"]),
                id=info["id"],
                category=self.categories[info["category_id"]],
                caption=caption_of(info),
                score=info.get("score"),
                iscrowd=bool(info.get("iscrowd", 0)),
            )
            for info in infos
        )
        height, width = ids.shape
        return PanopticImage(image_id, self.file_name(image_id), (height, width), segments)

    def infos(self, image_id: int | str) -> tuple[Mapping[str, Any], ...]:
        """What the file says of an image's segments; their pixels are not read.

        Raises:
            MissingImageError: the file has no annotation of this image.
        """
        return tuple(self._annotation(image_id)["segments_info"])

    def file_name(self, image_id: int | str) -> str:
        """The picture's file, without a folder; that of the PNG where the file does not say.

        Raises:
            MissingImageError: the file has no annotation of this image.
        """
        annotation = self._annotation(image_id)
        return str(self._images.get(image_id, {}).get("file_name", annotation["file_name"]))

    def only(self, image_ids: Iterable[int | str]) -> PanopticFiles:
        """The same files, of these images alone."""
        found = copy.copy(self)
        found._annotations = {image_id: self._annotation(image_id) for image_id in image_ids}
        found.image_ids = tuple(found._annotations)
        return found

    def _annotation(self, image_id: int | str) -> Mapping[str, Any]:
        if image_id not in self._annotations:
            raise MissingImageError(
                f"annotations: {str(self.json_file)!r} has none of image {image_id!r}"
            )
        return self._annotations[image_id]

    def _check_image(self, image: Mapping[str, Any], image_id: int | str) -> None:
        for key in ("height", "width"):
            if key in image and not (_is_int(image[key]) and image[key] > 0):
                raise self._error(
                    f"{key} of image {image_id!r} must be an integer above 0, got {image[key]!r}"
                )
        name = image.get("file_name", "")
        if not isinstance(name, str):
            raise self._error(f"file_name of image {image_id!r} must be text, got {name!r}")

    def _check_segment(self, segment: Any, image_id: int | str) -> None:
        number = self._value(segment, "id", int)
        category = self._value(segment, "category_id", int)
        if category not in self.categories:
            raise UnknownCategoryError(
                f"annotations: {str(self.json_file)!r}: segment {number} of image {image_id!r} is "
                f"of category {category}, which neither the file nor COCO knows"
            )
        for key, fits, expected in _SEGMENT_KEYS:
            if key in segment and not fits(segment[key]):
                raise self._error(
                    f"{key} of segment {number} of image {image_id!r} must be {expected}, "
                    f"got {segment[key]!r}"
                )

    def _list(self, values: Any, key: str, required: bool = True) -> list[Any]:
        if not isinstance(values, Mapping):
            raise self._error(f"expected an object with {key!r}, got {type(values).__name__}")
        found = values.get(key, None if required else [])
        if not isinstance(found, list):
            raise self._error(f"{key!r} must be a list, got {type(found).__name__}")
        return found

    def _value(self, entry: Any, key: str, kind: Any) -> Any:
        value = entry.get(key) if isinstance(entry, Mapping) else None
        if not isinstance(value, kind):
            name = getattr(kind, "__name__", kind)
            raise self._error(f"{key!r} of an entry must be {name}, got {value!r}")
        return value

    def _error(self, message: str) -> ValueError:
        return ValueError(f"annotations: {str(self.json_file)!r}: {message}")


def caption_of(info: Mapping[str, Any]) -> str:
    """What an entry of ``segments_info`` says of its segment; empty where it says nothing."""
    return str(info.get("caption", info.get("description", "")))


def write_panoptic(
    json_file: str | os.PathLike[str],
    images: Iterable[PanopticImage],
    png_folder: str | os.PathLike[str] | None = None,
) -> None:
    """Write COCO panoptic files, the PNGs first; each file appears whole or not at all.

    Args:
        json_file: in an existing folder.
        images: each becomes a PNG with the stem of its picture's name.
        png_folder: of the PNGs, made if it does not exist; by default beside the file, with its
            name without the suffix.

    Raises:
        SegmentIdError, ValueError: two images of one id or one name, or two categories of one id.
        NotADirectoryError: the file's folder does not exist.
    """
    target = Path(json_file)
    if not target.parent.is_dir():
        raise NotADirectoryError(f"annotations: no such folder: {str(target.parent)!r}")
    folder = Path(png_folder) if png_folder else target.with_suffix("")
    folder.mkdir(exist_ok=True)
    about: dict[int | str, dict[str, Any]] = {}
    annotations: dict[str, dict[str, Any]] = {}
    categories: dict[int, Category] = {}
    for image in images:
        name = f"{Path(image.file_name).stem}.png"
        if image.image_id in about or name in annotations:
            raise ValueError(f"images: {image.image_id!r} ({name}) comes twice")
        for category in (segment.category for segment in image.segments):
            if categories.setdefault(category.id, category) != category:
                raise ValueError(
                    f"segments: two categories have the id {category.id}: "
                    f"{categories[category.id].name!r} and {category.name!r}"
                )
        ids = image.id_map()
        rgb = np.stack([(ids >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)], axis=-1)
        with _whole(folder / name) as scratch:
            Image.fromarray(rgb).save(scratch, format="PNG")
        height, width = image.size
        about[image.image_id] = {
            "id": image.image_id,
            "file_name": image.file_name,
            "height": height,
            "width": width,
        }
        annotations[name] = {
            "image_id": image.image_id,
            "file_name": name,
            "segments_info": [_segment_info(segment) for segment in image.segments],
        }
    content = {
        "images": list(about.values()),
        "annotations": list(annotations.values()),
        "categories": [
            {"id": category.id, "name": category.name, "isthing": int(category.isthing)}
            for category in sorted(categories.values(), key=lambda category: category.id)
        ],
    }
    with _whole(target) as scratch:
        scratch.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """Where to write a file that appears whole or not at all."""
    scratch = file.with_name(f".{file.name}.part")
    try:
        yield scratch
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def _segment_info(segment: Segment) -> dict[str, Any]:
    x0, y0, x1, y1 = segment.box
    return {
        "id": segment.id,
        "category_id": segment.category.id,
        "iscrowd": int(segment.iscrowd),
        "bbox": [int(value) for value in (x0, y0, x1 - x0, y1 - y0)],
        "area": int(segment.area),
        "caption": segment.caption,
        **({} if segment.score is None else {"score": segment.score}),
    }


def _read_ids(file: Path, size: tuple[int, int] | None) -> NDArray[np.int32]:
    with open_image(file, argument="annotations") as image:
        if image.mode != "RGB":
            raise ValueError(f"annotations: {str(file)!r} must be an RGB PNG, got {image.mode}")
        if size not in (None, (image.height, image.width)):
            raise ValueError(
                f"annotations: {str(file)!r} must have size {size} (height, width) of its image, "
                f"got {(image.height, image.width)}"
            )
        try:
            rgb = np.asarray(image, dtype=np.int32)
        except Exception as error:  # whatever a decoder trips over in damaged data
            raise ValueError(f"annotations: {str(file)!r} is damaged ({error})") from error
    ids: NDArray[np.int32] = rgb[..., 0] | rgb[..., 1] << 8 | rgb[..., 2] << 16
    return ids
