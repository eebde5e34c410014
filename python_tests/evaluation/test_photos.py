"""The annotated photographs: installed, in line with the definitions, refused when malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastregion.evaluation import photos as photos_module
from fastregion.evaluation.ground_truth import measure_truth
from fastregion.evaluation.photos import Photo, photo_example, photo_tasks, read_photos
from fastregion.evaluation.vocabulary import COLORS, SHAPES, TEXTURES
from fastregion.scenes.facts import PLACES, SIZES

DATA = Path(__file__).parents[1] / "data" / "photos.json"
PHOTOS = read_photos(DATA)
ALLOWED = {
    "color": set(COLORS.values()),
    "size": set(SIZES),
    "place": set(PLACES),
    "pattern": set(TEXTURES.values()),
    "shape": set(SHAPES.values()),
}


def test_there_are_enough_regions() -> None:
    assert sum(len(photo.regions) for photo in PHOTOS) >= 60
    assert {photo.package for photo in PHOTOS} == {"skimage", "sklearn"}


def test_labels_tell_regions_apart() -> None:
    for photo in PHOTOS:
        labels = [region.label for region in photo.regions]
        assert len(set(labels)) == len(labels), photo.name


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_size_and_place_follow_the_definition(photo: Photo) -> None:
    image = photo.load()
    for region in photo.regions:
        truth = measure_truth(image, region.region.mask)
        assert set(region.facts["size"] or ()) == truth.sizes, region.label
        assert set(region.facts["place"] or ()) == truth.places, region.label


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_the_color_that_a_person_says_is_what_pixels_show(photo: Photo) -> None:
    image = photo.load()
    for region in photo.regions:
        said = region.facts["color"]
        if said is None:
            continue
        measured = measure_truth(image, region.region.mask)
        if measured.colors is not None:
            assert measured.colors & set(said), region.label
        assert any(measured.share(term) >= 0.15 for term in said), region.label


def test_facts_use_the_words_of_captions() -> None:
    for photo in PHOTOS:
        for region in photo.regions:
            for fact, words in region.facts.items():
                if isinstance(words, tuple):
                    assert words, region.label
                    assert set(words) <= ALLOWED[fact], region.label


def test_an_example_holds_checked_and_measured_facts() -> None:
    photo = next(photo for photo in PHOTOS if photo.name == "astronaut")
    index = [region.label for region in photo.regions].index("badge")
    example = photo_example(photo)
    truth = example.truths[index]
    assert example.image.shape == (512, 512, 3)
    assert not example.complete
    assert example.masks[index].shape == (512, 512)
    assert truth.colors == {"blue", "purple"}
    assert truth.shapes == {"round"}
    assert truth.hole is False
    assert truth.sizes == {"small"}
    assert truth.patterns is None
    assert truth.neighbors is None
    assert truth.cut_edges == set()
    assert truth.color_shares


def test_gray_photographs_come_as_rgb() -> None:
    photo = next(photo for photo in PHOTOS if photo.name == "camera")
    image = photo.load()
    assert image.shape == (512, 512, 3)
    assert np.array_equal(image[..., 0], image[..., 2])


def test_tasks_have_names_of_their_own() -> None:
    tasks = photo_tasks(DATA)
    assert len({task.name for task in tasks}) == len(tasks) == len(PHOTOS)
    assert {task.group for task in tasks} == {"photos"}


def one_photo(**changes: Any) -> dict[str, Any]:
    region = {
        "label": "spot",
        "rle": {"size": [400, 600], "counts": [100, 4, 239_896]},
        "facts": {"color": ["red"]},
    }
    return {"package": "skimage", "name": "coffee", "regions": [region], **changes}


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"version": 1, "photos": list(entries)}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"package": "numpy"}, r"photos: package must be one of \['skimage', 'sklearn'\]"),
        ({"name": "../../secret"}, r"photos: name must be a file name.*'\.\./\.\./secret'"),
        ({"name": 3}, "photos: name must be a file name"),
    ],
)
def test_malformed_entries_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_photos(write(tmp_path / "photos.json", one_photo(**changes)))


def test_unknown_facts_are_named(tmp_path: Path) -> None:
    entry = one_photo()
    entry["regions"][0]["facts"]["colour"] = ["red"]
    with pytest.raises(ValueError, match=r"coffee, 'spot': facts must be among .*\['colour'\]"):
        read_photos(write(tmp_path / "photos.json", entry))


@pytest.mark.parametrize("content", ["[]", "{", '{"version": 2}', "null"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "photos.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"photos: .*"):
        read_photos(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        read_photos(tmp_path / "nothing.json")


def test_a_photograph_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImportError, match="scikit-image does not carry no_such_photo"):
        photo_tasks(write(tmp_path / "photos.json", one_photo(name="no_such_photo")))
    monkeypatch.setattr(photos_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install scikit-image"):
        photo_tasks(write(tmp_path / "photos.json", one_photo()))


def test_a_photograph_of_another_size_is_refused() -> None:
    photo = next(photo for photo in PHOTOS if photo.name == "chelsea")
    other = Photo(package="skimage", name="coffee", regions=photo.regions)
    with pytest.raises(ValueError, match=r"coffee must have size \(300, 451\).*got \(400, 600\)"):
        photo_example(other)
