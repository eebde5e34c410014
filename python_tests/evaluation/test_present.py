"""What a general model is shown: where the pictures are changed, and where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastregion.evaluation.judges.chat import Answer
from fastregion.evaluation.judges.local import _picture
from fastregion.evaluation.present import PRESENTATIONS, present
from fastregion.evaluation.shown_model import ShownModel
from fastregion.regions import Region

HEIGHT, WIDTH = 120, 200
BOX = (50, 30, 90, 80)


@pytest.fixture
def image() -> Any:
    return np.random.default_rng(3).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def region() -> Region:
    return Region.from_box(BOX, (HEIGHT, WIDTH))


def changed(image: Any, picture: Image.Image) -> Any:
    return (np.asarray(picture) != image).any(-1)


def near(region: Region, margin: int) -> Any:
    x0, y0, x1, y1 = region.box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin] = True
    return mask


def test_a_contour_changes_the_outline_alone(image: Any, region: Region) -> None:
    shown = present("contour", image, [region])
    (picture,) = shown.pictures
    where = changed(image, picture)
    assert shown.names == ["the outlined region"]
    assert where[BOX[1], BOX[0] : BOX[2]].all()
    assert not where[~near(region, 8)].any()
    assert not where[BOX[1] + 6 : BOX[3] - 6, BOX[0] + 6 : BOX[2] - 6].any()


def test_an_overlay_tints_the_inside(image: Any, region: Region) -> None:
    shown = present("overlay", image, [region])
    where = changed(image, shown.pictures[0])
    assert where[region.mask].mean() > 0.99
    assert not where[~near(region, 8)].any()
    assert shown.names == ["the tinted region"]


def test_marks_are_numbered(image: Any, region: Region) -> None:
    other = Region.from_box((120, 10, 180, 60), (HEIGHT, WIDTH))
    shown = present("set-of-marks", image, [region, other])
    plain = present("overlay", image, [region])
    one = present("set-of-marks", image, [region])
    assert shown.names == [f"the marked region with the number {k}" for k in (1, 2)]
    assert (np.asarray(one.pictures[0]) != np.asarray(plain.pictures[0])).any()  # the number
    assert changed(image, shown.pictures[0])[other.mask].mean() > 0.99


def test_blur_leaves_the_inside_alone(image: Any, region: Region) -> None:
    (picture,) = present("blur-outside", image, [region]).pictures
    where = changed(image, picture)
    assert not where[region.mask].any()
    assert where[~region.mask].mean() > 0.95
    assert np.asarray(picture)[~region.mask].std() < image[~region.mask].std() / 2


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (BOX, (42, 20, 98, 90)),  # a fifth of 40 x 50 on every side
        ((0, 0, 40, 50), (0, 0, 48, 60)),  # cut at the border
        ((190, 110, 200, 120), (181, 101, 200, 120)),  # at least 28 pixels a side
        ((60, 60, 61, 61), (46, 46, 75, 75)),
    ],
)
def test_crops(
    image: Any, box: tuple[int, int, int, int], expected: tuple[int, int, int, int]
) -> None:
    (picture,) = present("crop", image, [Region.from_box(box, (HEIGHT, WIDTH))]).pictures
    x0, y0, x1, y1 = expected
    assert np.array_equal(np.asarray(picture), image[y0:y1, x0:x1])


@pytest.mark.parametrize("name", PRESENTATIONS)
def test_several_regions_have_several_names(image: Any, region: Region, name: str) -> None:
    other = Region.from_points([(150.0, 60.0)], (HEIGHT, WIDTH))
    shown = present(name, image, [region, other])
    assert len(set(shown.names)) == 2
    assert len(shown.pictures) == (2 if name in ("crop", "blur-outside") else 1)
    for picture in shown.pictures:
        assert picture.mode == "RGB"


def test_an_unknown_presentation(image: Any, region: Region) -> None:
    with pytest.raises(ValueError, match=r"present: expected one of contour, .*, got 'glow'"):
        present("glow", image, [region])


class Chat:
    """Keeps what it is asked."""

    name, concurrency = "chatty", 3

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Any]] = []

    def ask(self, messages: Any, options: Any) -> Answer:
        self.asked.append((messages, options))
        return Answer(text=" said \n")

    def close(self) -> None:
        raise AssertionError("whoever opened it closes it")


def test_a_chat_model_as_a_captioner(image: Any, region: Region) -> None:
    chat = Chat()
    model = ShownModel(chat, "crop")
    assert (model.model_id, model.model_type, model.concurrency) == ("chatty, crop", "chat", 3)
    texts = model.describe(image, [region, BOX], max_new_tokens=9, temperature=0.5, seed=4)
    assert texts == ["said", "said"]
    (messages, options), _ = chat.asked
    assert options == {"max_tokens": 9, "temperature": 0.5, "seed": 4}
    picture, text = messages[0]["content"]
    assert text["text"].startswith("Describe the object in the middle in detail")
    shown = np.asarray(_picture(picture["image_url"]["url"]))
    assert np.array_equal(shown, image[20:90, 42:98])  # nothing is lost on the way


def test_questions_name_regions_in_words(image: Any, region: Region) -> None:
    chat = Chat()
    ShownModel(chat, "contour").ask(image, [region, (1, 1, 9, 9)], "Is <Prompt1> in <Prompt0>?")
    ((messages, options),) = chat.asked
    assert options == {"temperature": 0.0}
    *pictures, text = messages[0]["content"]
    assert len(pictures) == 1
    one, two = (f"the outlined region with the number {k}" for k in (1, 2))
    assert text["text"] == f"Is {two} in {one}?"
    ShownModel(chat, "contour").describe(image, [region], "What is it?")
    text = chat.asked[-1][0][0]["content"][-1]["text"]
    assert text == "This is about the outlined region.\nWhat is it?"


def test_what_a_chat_model_cannot_do(image: Any, region: Region) -> None:
    model = ShownModel(Chat(), "contour")
    with pytest.raises(NotImplementedError, match=r"image: .* shown pictures, not videos"):
        model.describe([image, image], [[region, region]])
    with pytest.raises(NotImplementedError, match=r"unique: .* has no such option"):
        model.describe(image, [region], unique=True)
    with pytest.raises(ValueError, match="prompt: names <Prompt1>, but there are 1 regions"):
        model.ask(image, [region], "Where is <Prompt1>?")
    with pytest.raises(ValueError, match="present: expected one of"):
        ShownModel(Chat(), "glow")
