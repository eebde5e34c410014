"""Boxes, points and polygons becoming pixels."""

from __future__ import annotations

import numpy as np
import pytest

from fastregion.regions import Region

coco = pytest.importorskip("pycocotools.mask")

pytestmark = pytest.mark.usefixtures("implementation")


def test_a_box_is_half_open() -> None:
    mask = Region.from_box((40, 60, 220, 300), size=(480, 640)).mask
    expected = np.zeros((480, 640), bool)
    expected[60:300, 40:220] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1.4, 1.6, 8.5, 8.51), (1, 2, 8, 9)),
        ((-0.4, 0, 64.4, 48), (0, 0, 64, 48)),
        ((3.2, 5.3, 3.4, 5.4), (3, 5, 4, 6)),  # thinner than a pixel: the one that holds it
        ((3.4, 5, 3.6, 6), (3, 5, 4, 6)),
        ((0, 0, 64, 48), (0, 0, 64, 48)),
    ],
)
def test_fractions_go_to_the_nearest_pixel_edge(box, expected) -> None:
    assert Region.from_box(box, size=(48, 64)).box == expected


@pytest.mark.parametrize(
    ("box", "error", "message"),
    [
        ((0, 0, 65, 10), ValueError, "box: must lie inside the image of width 64 and height 48"),
        ((0, 0, 10, 49), ValueError, "box: must lie inside the image of width 64 and height 48"),
        ((70, 50, 80, 60), ValueError, "box: must lie inside the image"),
        ((-1, 0, 5, 5), ValueError, "box: coordinates must not be negative, got (-1, 0, 5, 5)"),
        ((5, 0, 5, 5), ValueError, "box: must have x0 < x1 and y0 < y1, got (5, 0, 5, 5)"),
        ((9, 0, 5, 5), ValueError, "box: must have x0 < x1 and y0 < y1, got (9, 0, 5, 5)"),
        ((0, 0, 5), ValueError, "box: must be 4 numbers, got shape (3,)"),
        ((0, 0, 5, np.nan), ValueError, "box: coordinates must be finite"),
        ((0, 0, 5, np.inf), ValueError, "box: coordinates must be finite"),
        ((0, 0, 1e12, 5), ValueError, "box: coordinates must be at most"),
        (("0", "0", "5", "5"), TypeError, "box: must be an array of bool, integers or floating"),
        ((False, False, True, True), TypeError, "box: must be 4 numbers, got bool"),
    ],
)
def test_refuses_boxes_that_are_none(box, error, message) -> None:
    with pytest.raises(error) as caught:
        Region.from_box(box, size=(48, 64))
    assert message in str(caught.value)


def test_a_point_is_a_disc_around_its_pixel() -> None:
    region = Region.from_points((20.9, 10), size=(48, 64), radius=3)
    y, x = np.mgrid[:48, :64]
    np.testing.assert_array_equal(region.mask, (x - 20) ** 2 + (y - 10) ** 2 <= 9)


def test_the_default_radius_is_two_percent_of_the_shorter_side_and_at_least_two() -> None:
    assert Region.from_points((50, 50), size=(100, 900)).box == (48, 48, 53, 53)
    assert Region.from_points((500, 500), size=(1000, 2000)).box == (480, 480, 521, 521)


def test_points_are_united_and_cut_at_the_border() -> None:
    region = Region.from_points([(0, 0), (63, 47)], size=(48, 64), radius=0)
    assert region.area == 2
    assert region.box == (0, 0, 64, 48)
    assert Region.from_points((0, 0), size=(48, 64), radius=1e9).area == 48 * 64


@pytest.mark.parametrize(
    ("points", "radius", "message"),
    [
        ((64, 10), None, "point: must lie inside the image (0 <= x < 64, 0 <= y < 48)"),
        ((10, 48), None, "got (10, 48)"),
        ((-0.5, 10), None, "point: coordinates must not be negative, got (-0.5, 10)"),
        ([(1, 2), (3, 400)], None, "got (3, 400)"),
        ((1, np.nan), None, "point: coordinates must be finite"),
        ((1, 2, 3), None, "point: must be (x, y) or a list of them, got shape (3,)"),
        ([], None, "point: must be (x, y) or a list of them"),
        ((1, 2), -1, "radius: must be at least 0, got -1"),
        ((1, 2), np.nan, "radius: must be at least 0, got nan"),
    ],
)
def test_refuses_points_that_are_none(points, radius, message) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Region.from_points(points, size=(48, 64), radius=radius)
    assert message in str(caught.value)


def theirs(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    return coco.decode(coco.merge(coco.frPyObjects(polygons, height, width))).astype(bool)


@pytest.mark.parametrize("kind", ["inside", "across the border", "integers", "far", "thin"])
def test_polygons_equal_pycocotools(kind: str, implementation: str) -> None:
    rng = np.random.default_rng(7)
    for trial in range({"native": 150, "reference": 30}[implementation]):
        height, width = rng.integers(1, 120, 2).tolist()
        scale = np.array([width, height])
        points = rng.uniform(0, 1, (rng.integers(3, 10), 2)) * scale
        if kind == "across the border":
            points = (points - scale / 2) * 2.5 + scale / 2
        elif kind == "integers":
            points = np.round(points * 1.5 - scale / 4)
            points[1] = points[0]  # repeated points happen
        elif kind == "far":
            points = (points - scale / 2) * 100
        elif kind == "thin":
            points[:, 0] = points[0, 0] + rng.uniform(0, 0.6, len(points))
        flat = points.ravel().tolist()
        expected = theirs([flat], height, width)
        region = Region.from_polygon(flat, size=(height, width))
        np.testing.assert_array_equal(region.mask, expected, err_msg=f"trial {trial}: {flat}")


def test_several_polygons_are_united_as_pycocotools_unites_them() -> None:
    polygons = [[2, 2, 30, 4, 28, 40, 3, 35], [20.5, 10, 60, 12, 50, 44], [0, 0, 5, 0, 5, 5]]
    expected = theirs(polygons, 48, 64)
    np.testing.assert_array_equal(Region.from_polygon(polygons, size=(48, 64)).mask, expected)
    arrays = [np.array(polygon).reshape(-1, 2) for polygon in polygons]
    np.testing.assert_array_equal(Region.from_polygon(arrays, size=(48, 64)).mask, expected)


def test_a_polygon_may_be_flat_or_pairs() -> None:
    flat = [2, 2, 30, 4, 28, 40]
    pairs = np.reshape(flat, (3, 2))
    expected = Region.from_polygon(flat, size=(48, 64))
    for same in (pairs, pairs.tolist(), [flat], tuple(flat), [pairs]):
        assert Region.from_polygon(same, size=(48, 64)) == expected


@pytest.mark.parametrize(
    ("polygons", "error", "message"),
    [
        ([1, 2, 3, 4], ValueError, "polygon: must be at least 3 points"),
        ([1, 2, 3, 4, 5, 6, 7], ValueError, "got shape (7,)"),
        ([], ValueError, "polygon: must be at least 3 points"),
        ([[1, 2, 3, 4, 5, 6], [1, 2]], ValueError, "got shape (2,)"),
        ([1, 2, 3, 4, 5, np.nan], ValueError, "polygon: coordinates must be finite"),
        ([1, 2, 3, 4, 5, 1e9], ValueError, "polygon: coordinates must be at most"),
        ("square", TypeError, "polygon: must be an array"),
        (None, TypeError, "polygon: must be an array"),
    ],
)
def test_refuses_polygons_that_are_none(polygons, error, message) -> None:
    with pytest.raises(error) as caught:
        Region.from_polygon(polygons, size=(48, 64))
    assert message in str(caught.value)
