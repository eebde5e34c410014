import numpy as np
import pytest

from fastregion.scenes.facts import (
    SIZE_LIMITS,
    SIZES,
    centroid,
    edge_contacts,
    grow,
    measure,
    place_words,
    size_words,
)


def _box_mask(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


@pytest.mark.parametrize("index", range(len(SIZE_LIMITS)))
def test_size_words_around_a_threshold(index: int) -> None:
    limit = SIZE_LIMITS[index]
    for factor, fair in ((0.85, 1), (0.95, 2), (1.05, 2), (1.15, 1)):
        mask = np.zeros(1_000_000, bool)
        mask[: round(limit * factor * mask.size)] = True
        words = size_words(mask.reshape(1000, 1000))
        assert words[0] == SIZES[index + (factor > 1)]
        assert len(words) == fair
        assert set(words) <= {SIZES[index], SIZES[index + 1]}


def test_places_and_their_tolerance() -> None:
    assert place_words(_box_mask(90, 90, (0, 0, 10, 10))) == ("top left",)
    assert place_words(_box_mask(90, 90, (40, 40, 50, 50))) == ("center",)
    assert place_words(_box_mask(90, 90, (70, 40, 80, 50))) == ("right",)
    # A centroid 2 % of the width left of the first third line: both sides of the line are fair.
    words = place_words(_box_mask(90, 90, (24, 40, 32, 50)))
    assert words[0] == "left"
    assert set(words) == {"left", "center"}


def test_centroid_is_at_pixel_centres() -> None:
    assert centroid(_box_mask(10, 20, (0, 0, 1, 1))) == (0.5 / 20, 0.5 / 10)


def test_edge_contacts() -> None:
    contacts = edge_contacts(_box_mask(10, 20, (0, 7, 5, 10)))
    assert contacts == {"left": 3, "top": 0, "right": 0, "bottom": 5}


@pytest.mark.parametrize("pixels", [1, 3])
def test_grow_equals_a_naive_dilation(pixels: int) -> None:
    mask = np.random.default_rng(pixels).random((17, 23)) < 0.03
    expected = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        expected[max(y - pixels, 0) : y + pixels + 1, max(x - pixels, 0) : x + pixels + 1] = True
    assert np.array_equal(grow(mask, pixels), expected)


def test_measure_a_red_box_on_blue() -> None:
    image = np.full((120, 120, 3), (20, 70, 220), np.uint8)
    mask = _box_mask(120, 120, (0, 50, 30, 80))
    image[mask] = (220, 20, 40)
    facts = measure(image, mask)
    assert (facts.color, facts.second) == ("red", None)
    assert (facts.background, facts.background_ok) == ("blue", ("blue",))
    assert (facts.size, facts.place, facts.edges) == ("medium-sized", "left", ("left",))


def test_second_color_needs_a_quarter() -> None:
    image = np.full((100, 100, 3), 255, np.uint8)
    mask = np.ones((100, 100), bool)
    image[:20] = 0
    assert measure(image, mask).second is None
    image[:27] = 0  # close to the line: right, but not said
    facts = measure(image, mask)
    assert (facts.second, facts.second_ok) == (None, ("black",))
    image[:32] = 0
    assert measure(image, mask).second == "black"


def test_measure_refuses_bad_masks() -> None:
    image = np.zeros((10, 12, 3), np.uint8)
    with pytest.raises(ValueError, match=r"mask: expected shape \(10, 12\) to match the image"):
        measure(image, np.ones((12, 10), bool))
    with pytest.raises(ValueError, match="mask: expected at least one pixel set"):
        measure(image, np.zeros((10, 12), bool))


def test_background_is_said_only_where_its_name_is_fair() -> None:
    mask = _box_mask(120, 120, (40, 50, 70, 80))
    for ground, background in (((255, 150, 40), "orange"), ((100, 60, 60), None)):
        image = np.full((120, 120, 3), ground, np.uint8)
        image[mask] = (20, 70, 220)
        assert measure(image, mask).background == background  # the second is called brown at most
