"""Annotated regions of sample photographs.

The photographs are those that scikit-image and scikit-learn carry in their wheels; they stay where
they are installed. A JSON file names them and holds regions with facts that a person checked::

    {"version": 1, "photos": [
      {"package": "skimage", "name": "coffee", "regions": [
        {"label": "saucer", "rle": {"size": [400, 600], "counts": "..."},
         "facts": {"color": ["red", "brown"], "size": ["large"], "place": ["bottom", "center"],
                   "shape": ["round"], "hole": false}}]}]}

``rle`` is a mask in COCO's compressed run-length encoding. A fact is a list of words that are
right; ``null``, or a fact that is left out, means that nothing said about it is scored. The
background and the cut edges are measured.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastregion.evaluation.examples import Example, Task
from fastregion.evaluation.ground_truth import RegionTruth, measure_truth
from fastregion.images import RgbImage, load_image
from fastregion.regions import Region

_FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
_SUFFIXES = (".png", ".jpg")
_FACTS = ("color", "size", "place", "pattern", "shape", "hole")


@dataclass(frozen=True, kw_only=True)
class PhotoRegion:
    """One annotated region.

    Attributes:
        label: What a person would call it.
        region: Where it is.
        facts: For each checked fact the words that are right ("hole": whether it has one); None for
            facts that are not scored.
    """

    label: str
    region: Region
    facts: Mapping[str, tuple[str, ...] | bool | None]


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photograph of an installed package and its annotated regions.

    Attributes:
        package: "skimage" or "sklearn".
        name: File name without suffix.
        regions: The annotated regions.
    """

    package: str
    name: str
    regions: tuple[PhotoRegion, ...]

    def load(self) -> RgbImage:
        """Reads the photograph, ``[H, W, 3]`` uint8.

        Raises:
            ImportError: the package is not installed, or its wheel does not carry the photograph.
        """
        return load_image(_find_photo(self.package, self.name))


def read_photos(path: str | Path) -> list[Photo]:
    """Reads the JSON file described in this module.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: the file is not as described; the message names the photograph and the region.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"photos: {path} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("version") != 1:
        raise ValueError(f'photos: {path} must be an object with "version": 1')
    return [_photo(values) for values in content["photos"]]


def photo_tasks(path: str | Path) -> list[Task]:
    """The photographs of a JSON file as evaluation tasks, one for each photograph.

    Raises:
        FileNotFoundError, ValueError: as for :func:`read_photos`.
        ImportError: a photograph is not installed.
    """
    photos = read_photos(path)
    for photo in photos:
        _find_photo(photo.package, photo.name)
    return [
        Task(
            name=f"photo {photo.package} {photo.name}",
            group="photos",
            make=functools.partial(photo_example, photo),
            picture=photo.load,
        )
        for photo in photos
    ]


def photo_example(photo: Photo) -> Example:
    """A photograph with the truth of its regions: checked facts, and measured ones.

    Raises:
        ValueError: the installed photograph has another size than the annotation.
    """
    image = photo.load()
    for region in photo.regions:
        if region.region.size != image.shape[:2]:
            raise ValueError(
                f"photos: {photo.name} must have size {region.region.size} (height, width) to "
                f"match the region {region.label!r}, got {image.shape[:2]}"
            )
    masks = [region.region.mask for region in photo.regions]
    truths = [
        _truth(measure_truth(image, mask), region.facts)
        for region, mask in zip(photo.regions, masks, strict=True)
    ]
    return Example(image=image, masks=masks, truths=truths, complete=False)


def _truth(measured: RegionTruth, facts: Mapping[str, Any]) -> RegionTruth:
    def right(fact: str) -> frozenset[str] | None:
        words = facts.get(fact)
        return None if words is None else frozenset(words)

    return replace(
        measured,
        colors=right("color"),
        sizes=right("size"),
        places=right("place"),
        patterns=right("pattern"),
        shapes=right("shape"),
        hole=facts.get("hole"),
    )


def _photo(values: Mapping[str, Any]) -> Photo:
    package, name = values.get("package"), values.get("name")
    if package not in _FOLDERS:
        raise ValueError(f"photos: package must be one of {sorted(_FOLDERS)}, got {package!r}")
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise ValueError(f"photos: name must be a file name without suffix, got {name!r}")
    regions = []
    for item in values["regions"]:
        unknown = sorted(set(item["facts"]) - set(_FACTS))
        if unknown:
            raise ValueError(
                f"photos: {name}, {item['label']!r}: facts must be among {_FACTS}, got {unknown}"
            )
        facts = {
            fact: tuple(words) if isinstance(words, list) else words
            for fact, words in item["facts"].items()
        }
        regions.append(
            PhotoRegion(label=item["label"], region=Region.from_rle(item["rle"]), facts=facts)
        )
    return Photo(package=package, name=name, regions=tuple(regions))


def _find_photo(package: str, name: str) -> Path:
    """The file of a photograph; the package itself is not imported, which would take seconds."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(
            f"photos: {name} comes with {_DISTRIBUTIONS[package]}, which is not installed; "
            f"pip install {_DISTRIBUTIONS[package]}"
        )
    folder = Path(spec.origin).parent / _FOLDERS[package]
    for suffix in _SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    raise ImportError(
        f"photos: the installed {_DISTRIBUTIONS[package]} does not carry {name}; "
        "install another version"
    )
