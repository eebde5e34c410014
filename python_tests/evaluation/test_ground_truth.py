"""Truth measured from pixels and masks, at the thresholds of the definitions and around them."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from fastregion.evaluation.ground_truth import (
    RegionTruth,
    is_straight,
    measure_truth,
    scene_truths,
)
from fastregion.scenes import generate_scene

RED, BLUE, GREEN, WHITE = (200, 30, 30), (30, 80, 220), (30, 160, 40), (255, 255, 255)
# Between red and pink, inside the ranges of both.
RED_OR_PINK = (225, 60, 90)
# Between brown, orange and gray, inside no range.
NO_TERM = (200, 170, 135)


def canvas(
    color: tuple[int, int, int], size: tuple[int, int] = (200, 200)
) -> npt.NDArray[np.uint8]:
    return np.full((*size, 3), color, np.uint8)


def box(
    x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (200, 200)
) -> npt.NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def area_mask(share: float) -> npt.NDArray[np.bool_]:
    """A mask of 1,000 x 1,000 with exactly this share of its pixels set."""
    flat = np.zeros(1_000_000, bool)
    flat[: round(share * flat.size)] = True
    return flat.reshape(1000, 1000)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0044, {"tiny"}),
        (0.0046, {"tiny", "small"}),
        (0.0054, {"tiny", "small"}),
        (0.0056, {"small"}),
        (0.026, {"small"}),
        (0.028, {"small", "medium-sized"}),
        (0.0335, {"medium-sized"}),
        (0.107, {"medium-sized"}),
        (0.109, {"medium-sized", "large"}),
        (0.131, {"medium-sized", "large"}),
        (0.133, {"large"}),
        (0.32, {"large", "huge"}),
        (0.39, {"huge"}),
        (1.0, {"huge"}),
    ],
)
def test_sizes_at_their_thresholds(share: float, words: set[str]) -> None:
    mask = area_mask(share)
    assert measure_truth(canvas(RED, mask.shape), mask).sizes == words


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (100, 100, {"top left"}),
        (279, 100, {"top left"}),  # 5 % of the image is 50 pixels; the line is at 333.3
        (288, 100, {"top left", "top"}),
        (379, 500, {"left", "center"}),
        (388, 500, {"center"}),
        (500, 720, {"bottom"}),
        (500, 700, {"center", "bottom"}),
        (667, 667, {"center", "right", "bottom", "bottom right"}),
        (900, 500, {"right"}),
    ],
)
def test_places_at_the_third_lines(x: int, y: int, words: set[str]) -> None:
    mask = box(x - 5, y - 5, x + 5, y + 5, (1000, 1000))
    assert measure_truth(canvas(RED, (1000, 1000)), mask).places == words


def test_main_colors_are_those_of_most_pixels() -> None:
    image = canvas(WHITE)
    mask = box(0, 0, 100, 100)
    image[:100, :70], image[:100, 70:100] = RED, BLUE
    assert measure_truth(image, mask).colors == {"red"}
    image[:100, :52], image[:100, 52:100] = RED, BLUE  # about as many
    assert measure_truth(image, mask).colors == {"red", "blue"}


def test_both_terms_are_right_between_two_and_none_is_known_between_all() -> None:
    mask = box(50, 50, 150, 150)
    assert measure_truth(canvas(RED_OR_PINK), mask).colors == {"red", "pink"}
    assert measure_truth(canvas(NO_TERM), mask).colors is None


def test_a_quarter_of_the_region_decides_whether_a_color_may_be_said() -> None:
    image = canvas(WHITE)
    mask = box(0, 0, 100, 100)
    for blue_share, fits in ((0.30, True), (0.23, True), (0.22, False), (0.1, False)):
        image[:100, :100] = RED
        image[:100, : round(100 * blue_share)] = BLUE
        truth = measure_truth(image, mask)
        assert truth.fits_color("red")
        assert truth.fits_color("blue") is fits
        assert truth.fits_second_color("blue", "red") is fits
        assert not truth.fits_color("green")


def test_one_color_between_two_terms_has_no_second_color() -> None:
    truth = measure_truth(canvas(RED_OR_PINK), box(0, 0, 50, 50))
    assert truth.fits_color("pink")
    assert not truth.fits_second_color("pink", "red")
    image = canvas(RED)
    image[:, :25] = RED_OR_PINK
    truth = measure_truth(image, box(0, 0, 50, 50))
    assert truth.fits_second_color("pink", "red")  # some pixels are red and not pink


def test_unknown_colors_are_never_wrong() -> None:
    truth = measure_truth(canvas(NO_TERM), box(0, 0, 50, 50))
    assert truth.fits_color("green")
    assert truth.fits_second_color("green", "blue")


def test_background_needs_most_of_the_ring() -> None:
    mask = box(80, 80, 120, 120)
    image = canvas(GREEN)
    image[mask] = RED
    assert measure_truth(image, mask).backgrounds == {"green"}
    image[:, :100][~mask[:, :100]] = BLUE  # half and half
    assert measure_truth(image, mask).backgrounds is None
    everything = np.ones((200, 200), bool)
    assert measure_truth(canvas(RED), everything).backgrounds is None


def test_cut_edges_are_those_within_two_pixels() -> None:
    image = canvas(GREEN, (100, 150))
    assert measure_truth(image, box(0, 20, 30, 100, (100, 150))).cut_edges == {"left", "bottom"}
    assert measure_truth(image, box(2, 20, 30, 90, (100, 150))).cut_edges == {"left"}
    assert measure_truth(image, box(3, 3, 147, 97, (100, 150))).cut_edges == set()


def test_centroid_and_area_are_shares_of_the_image() -> None:
    truth = measure_truth(canvas(RED, (100, 200)), box(50, 20, 100, 40, (100, 200)))
    assert truth.centroid == pytest.approx((0.375, 0.3))
    assert truth.area == pytest.approx(0.05)


def test_what_cannot_be_measured_is_unknown() -> None:
    truth = measure_truth(canvas(RED), box(0, 0, 50, 50))
    assert (truth.patterns, truth.shapes, truth.hole, truth.neighbors) == (None, None, None, None)


def test_bad_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask: expected shape \(200, 200\).*got \(100, 200\)"):
        measure_truth(canvas(RED), np.ones((100, 200), bool))
    with pytest.raises(ValueError, match="mask: expected at least one pixel set"):
        measure_truth(canvas(RED), np.zeros((200, 200), bool))


def test_straight_bars_are_told_from_bent_ones_at_any_angle() -> None:
    ys, xs = np.mgrid[0:200, 0:200] - 100.0
    for angle in np.linspace(0, np.pi, 7):
        u, v = xs * np.cos(angle) + ys * np.sin(angle), ys * np.cos(angle) - xs * np.sin(angle)
        assert is_straight((np.abs(u) < 80) & (np.abs(v) < 10))
    radius = np.hypot(xs, ys)
    assert not is_straight((radius > 70) & (radius < 85) & (ys > 30))


@pytest.mark.parametrize("seed", range(6))
def test_scene_truths_agree_with_the_facts_of_the_scene(seed: int) -> None:
    scene = generate_scene(seed)
    for region, truth in zip(scene.regions, scene_truths(scene), strict=True):
        facts = region.facts
        assert truth.sizes == set(facts.size_ok)
        assert truth.places == set(facts.place_ok)
        assert truth.patterns == (None if facts.pattern is None else {facts.pattern})
        assert facts.shape is None or facts.shape in (truth.shapes or ())
        assert set(facts.edges) <= (truth.cut_edges or set())
        assert truth.colors is None or truth.fits_color(facts.color)
        if facts.background is not None:
            assert facts.background in (truth.backgrounds or ())


def test_scene_neighbors_hold_the_relation_of_the_scene() -> None:
    found = 0
    for seed in range(60):
        if found >= 5:
            break
        scene = generate_scene(seed)
        for region, truth in zip(scene.regions, scene_truths(scene), strict=True):
            if region.facts.relation is None:
                continue
            kind, color, shape = region.facts.relation
            found += 1
            assert any(
                kind in neighbor.relations
                and (neighbor.colors is None or color in neighbor.colors)
                and (shape is None or neighbor.shapes is None or shape in neighbor.shapes)
                for neighbor in truth.neighbors or ()
            )
    assert found >= 5


def test_truth_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RegionTruth(centroid=(0.5, 0.5), area=0.1).area = 0.2  # type: ignore[misc]
