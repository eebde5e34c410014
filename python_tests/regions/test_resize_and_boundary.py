"""Masks resized and reduced to their boundaries, against loops and plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastregion._native import native_module
from fastregion.regions import Region, _reference

SIZES = [(1, 1), (1, 64), (1, 130), (70, 1), (3, 63), (5, 65), (31, 127), (129, 128), (64, 200)]


def masks_of_size(size: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Empty, full, noise, dense, a disc that touches the border."""
    rng = np.random.default_rng(size[0] * 1000 + size[1])
    y, x = np.mgrid[: size[0], : size[1]]
    disc = np.hypot(y - size[0] / 3, x - size[1] / 3) < max(size) / 2.5
    noise = rng.random(size)
    return [np.zeros(size, bool), np.ones(size, bool), noise < 0.5, noise < 0.98, disc]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "new_size", [(1, 1), (1, 64), (7, 63), (64, 65), (33, 129), (200, 1), (90, 577)]
)
def test_resize_takes_the_nearest_pixel(size: tuple[int, int], new_size: tuple[int, int]) -> None:
    rows = [i * size[0] // new_size[0] for i in range(new_size[0])]
    columns = [j * size[1] // new_size[1] for j in range(new_size[1])]
    for mask in masks_of_size(size):
        resized = Region.from_mask(mask).resize(new_size)
        assert resized.size == new_size
        np.testing.assert_array_equal(resized.mask, mask[np.ix_(rows, columns)])
        assert resized == Region.from_mask(resized.mask)  # and the padding is 0


def eroded_by_a_loop(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """``width`` erosions by a 3 x 3 square in a frame of zeros: the words of boundary IoU."""
    mask = np.pad(mask, 1)
    for _ in range(width):
        kept = mask.copy()
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                kept &= np.roll(mask, (dy, dx), (0, 1))
        kept[[0, -1]] = False
        kept[:, [0, -1]] = False
        mask = kept
    return mask[1:-1, 1:-1]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("size", [*SIZES, (150, 300)])
@pytest.mark.parametrize("width", [1, 2, 7, 32, 64, 75])
def test_boundary_is_the_mask_minus_its_erosion(size: tuple[int, int], width: int) -> None:
    for mask in masks_of_size(size):
        boundary = Region.from_mask(mask).boundary(width)
        expected = mask & ~eroded_by_a_loop(mask, width)
        assert boundary == Region.from_mask(expected)


@pytest.mark.usefixtures("implementation")
def test_default_width_is_two_percent_of_the_diagonal() -> None:
    region = Region.from_box((50, 60, 350, 240), (300, 400), id=3, label="cat", score=0.5)
    assert region.boundary() == region.boundary(10)
    assert region.boundary().label == "cat"
    small = Region.from_box((0, 0, 5, 5), (9, 9), score=0.5)
    assert small.boundary() == small.boundary(1)
    assert small.boundary().area == 16
    assert small.boundary(10**12).area == 25
    assert small.resize((18, 27)) == Region.from_box((0, 0, 15, 10), (18, 27), score=0.5)


@pytest.mark.usefixtures("implementation")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_size_and_width(data: st.DataObject) -> None:
    side = st.integers(1, 140)
    size, new_size = data.draw(st.tuples(side, side)), data.draw(st.tuples(side, side))
    seed = data.draw(st.integers(0, 2**32))
    mask = np.random.default_rng(seed).random(size) < data.draw(st.floats(0, 1))
    region = Region.from_mask(mask)
    bits, columns = region.pixels()
    resized = _reference.resize(bits, columns, *new_size, 1)
    np.testing.assert_array_equal(region.resize(new_size).bits, resized)
    width = data.draw(st.integers(1, 150))
    boundary = _reference.boundary(bits, columns, width, 1)
    np.testing.assert_array_equal(region.boundary(width).bits, boundary)


@pytest.mark.skipif(native_module() is None, reason="the native module is not built")
def test_threads_do_not_change_the_result() -> None:
    module = native_module()
    assert module is not None
    mask = np.random.default_rng(0).random((1500, 333)) < 0.995
    bits, width = Region.from_mask(mask).pixels()
    for function, arguments in (
        (module.regions.resize, (2100, 500)),
        (module.regions.resize, (1100, 200)),
        (module.regions.boundary, (4,)),
        (module.regions.boundary, (40,)),
    ):
        alone = function(bits, width, *arguments, 1)
        for num_threads in (2, 3):
            np.testing.assert_array_equal(function(bits, width, *arguments, num_threads), alone)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda region: region.resize((3,)), TypeError, r"size: must be two integers"),
        (lambda region: region.resize((3, 0)), ValueError, r"size: must be positive .* \(3, 0\)"),
        (lambda region: region.boundary(0), ValueError, "width: must be at least 1, got 0"),
        (lambda region: region.boundary(1.5), TypeError, "width: must be an integer, got 1.5"),
        (lambda region: region.boundary(True), TypeError, "width: must be an integer, got True"),
    ],
)
def test_errors(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(Region.from_box((0, 0, 2, 2), (4, 4)))


def test_unbound_regions_have_no_pixels() -> None:
    unbound = Region.from_box((0, 0, 2, 2))
    for call in (lambda: unbound.resize((3, 3)), lambda: unbound.boundary(1)):
        with pytest.raises(ValueError, match="region: is not bound to an image yet"):
            call()
