"""Pix2Cap-COCO's rows: an image with its segments, their categories and descriptions.

A COCO panoptic file with a ``description`` for each segment, the PNGs of segment ids, and the
pictures. As published, an image is left out if a segment's description has fewer than 3 characters;
crowds are not learned; descriptions are used as they are.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from fastregion.models.categories import COCO_PANOPTIC
from fastregion.models.coco_panoptic import PanopticFiles, caption_of
from fastregion.models.segment import Segment
from fastregion.training.data.cells import Picture
from fastregion.training.data.record import BadRow, Record

__all__ = ["Pix2CapRecords"]

_LOG = logging.getLogger(__name__)
_SHORTEST = 3  # characters of a description
_CLASSES = frozenset(category.id for category in COCO_PANOPTIC)


class Pix2CapRecords:
    """The images that may be learned, in the order of the file; how many may not is logged.

    Args:
        annotations: the JSON file, at most 512 MiB.
        pictures: the folder of the pictures.
        png_folder: the folder of the PNGs; by default beside the file, with its name.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: the file is of another form, or no image is left.
    """

    def __init__(self, annotations: Path, pictures: Path, png_folder: Path | None = None) -> None:
        self._files = PanopticFiles(annotations, png_folder)
        for folder in (pictures, self._files.png_folder):
            if not folder.is_dir():
                raise FileNotFoundError(f"data: no such folder: {str(folder)!r}")
        self._pictures = pictures
        self._image_ids = [
            image_id
            for image_id in self._files.image_ids
            if all(len(caption_of(info)) >= _SHORTEST for info in self._files.infos(image_id))
        ]
        total, left = len(self._files.image_ids), len(self._image_ids)
        if left < total:
            _LOG.warning("%s: %d of %d images are left out", annotations, total - left, total)
        if not left:
            raise ValueError(
                f"data: {str(annotations)!r}: every image has a segment whose description is "
                f"shorter than {_SHORTEST} characters"
            )

    def __len__(self) -> int:
        return len(self._image_ids)

    def __getitem__(self, index: int) -> Record:
        image_id = self._image_ids[index]
        learned = [info for info in self._files.infos(image_id) if not info.get("iscrowd", 0)]
        if not learned:
            raise BadRow("segments_info: has no segment but crowds", "no text")
        for info in learned:
            if info["category_id"] not in _CLASSES:
                raise BadRow(f"segments_info: category {info['category_id']} is none of COCO's 133")
        picture = Picture(_picture(self._pictures / self._files.file_name(image_id)))
        return Record(
            id=str(image_id),
            image=picture.read,
            size=picture.size,
            regions=partial(self._segments, image_id, picture),
            num_regions=len(learned),
            captions=tuple((caption_of(info),) for info in learned),
            category_ids=tuple(info["category_id"] for info in learned),
            class_names=tuple(self._files.categories[i["category_id"]].name for i in learned),
        )

    def name(self, index: int) -> str:
        """Where it stands, for messages."""
        return f"{self._files.json_file.name}, image {self._image_ids[index]}"

    def _segments(self, image_id: int | str, picture: Picture) -> tuple[Segment, ...]:
        size = picture.size()
        try:
            found = self._files.read(image_id)
        except FileNotFoundError as error:
            raise BadRow(str(error), "missing file") from error
        except ValueError as error:
            raise BadRow(str(error), "malformed mask") from error
        if found.size != size:
            raise BadRow(
                f"mask: expected shape {size} to match the image, got {found.size}", "size mismatch"
            )
        return tuple(segment for segment in found.segments if not segment.iscrowd)


def _picture(file: Path) -> Path:
    """The picture's file; where the annotations name the PNG alone, COCO's picture of its name."""
    return file if file.exists() or file.suffix != ".png" else file.with_suffix(".jpg")
