import numpy as np
import pytest

from fastregion.scenes.outlines import SHAPES, Outline, convex_hull, sample_outline, with_hole


@pytest.mark.parametrize("shape", SHAPES)
def test_alpha_covers_the_area(shape: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        outline = sample_outline(rng, shape).transformed(
            scale=30.0, angle=rng.uniform(0, 6), center=(300.0, 300.0)
        )
        alpha = outline.alpha((0, 0, 600, 600))
        assert alpha.sum() == pytest.approx(outline.area, rel=0.06)
        assert alpha.min() == 0.0
        assert alpha.max() == 1.0


@pytest.mark.parametrize(
    ("shape", "low", "high"), [("round", 1.0, 1.1), ("oval", 1.45, 2.1), ("square", 1.0, 1.1)]
)
def test_axis_ratios(shape: str, low: float, high: float) -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        x0, y0, x1, y1 = sample_outline(rng, shape).bounds
        ratio = max(x1 - x0, y1 - y0) / min(x1 - x0, y1 - y0)
        assert low - 0.01 <= ratio <= high + 0.01


def test_rings_have_a_wide_hole_and_holes_cut_area() -> None:
    rng = np.random.default_rng(5)
    ring = sample_outline(rng, "ring-shaped")
    assert len(ring.holes) == 1
    assert np.ptp(ring.holes[0][:, 1]) / np.ptp(ring.points[:, 1]) >= 0.45
    square = sample_outline(rng, "square")
    assert with_hole(rng, square).area < 0.95 * square.area


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape: expected one of round"):
        sample_outline(np.random.default_rng(0), "heptagonal")


def test_convex_hull_of_a_star() -> None:
    star = sample_outline(np.random.default_rng(6), "star-shaped")
    hull = Outline(shape=None, points=convex_hull(star.points))
    assert len(hull.points) <= len(star.points) / 2 + 1
    assert hull.area > 1.2 * star.area
