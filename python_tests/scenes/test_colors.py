"""The colour naming is the ceiling of the captioner: tested by itself."""

import numpy as np
import pytest

from fastregion.scenes.colors import (
    COLOR_CENTERS,
    COLOR_TERMS,
    fair_terms,
    lightness_chroma_hue,
    name_colors,
    oklab_to_srgb,
    srgb_to_oklab,
    term_shares,
)


def _clear_colors(term: str, count: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(1)
    box = COLOR_CENTERS[term]
    lightness, chroma = rng.uniform(*box.lightness, count), rng.uniform(*box.chroma, count)
    hue = np.radians(rng.uniform(*box.hue, count))
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    rgb = oklab_to_srgb(lab)
    return np.rint(rgb[((rgb >= 0) & (rgb <= 255)).all(axis=1)]).astype(np.uint8)


@pytest.mark.parametrize("term", COLOR_TERMS)
def test_clear_colors_get_their_name(term: str) -> None:
    rgb = _clear_colors(term)
    assert len(rgb) > 500
    named = np.array(COLOR_TERMS)[name_colors(rgb)]
    assert (named == term).mean() > 0.995
    assert fair_terms(rgb)[:, COLOR_TERMS.index(term)].mean() > 0.99


def test_names_are_fair_wherever_any_term_is() -> None:
    # The table has cells of 4 values; the colour in the middle of a cell must get a fair name.
    rng = np.random.default_rng(2)
    cell = rng.integers(0, 64, (5000, 3))
    middle = cell * 4 + 1.5
    fair = fair_terms(middle)
    chosen = name_colors((cell * 4).astype(np.uint8))
    anything = fair.any(axis=1)
    assert anything.mean() > 0.9
    assert fair[anything, chosen[anything]].all()


@pytest.mark.parametrize(
    ("rgb", "term"),
    [
        ((0, 0, 0), "black"),
        ((255, 255, 255), "white"),
        ((128, 128, 128), "gray"),
        ((220, 20, 40), "red"),
        ((255, 140, 0), "orange"),
        ((255, 230, 0), "yellow"),
        ((30, 160, 40), "green"),
        ((20, 70, 220), "blue"),
        ((130, 30, 170), "purple"),
        ((255, 150, 190), "pink"),
        ((110, 65, 25), "brown"),
    ],
)
def test_everyday_colors(rgb: tuple[int, int, int], term: str) -> None:
    assert COLOR_TERMS[int(name_colors(np.array(rgb, np.uint8)))] == term


def test_oklab_known_values_and_round_trip() -> None:
    # White is L = 1 without chroma; sRGB red is the published L = 0.628, C = 0.258, h = 29.2.
    assert srgb_to_oklab([255, 255, 255]) == pytest.approx([1, 0, 0], abs=1e-6)
    assert lightness_chroma_hue([255, 0, 0]) == pytest.approx([0.628, 0.2577, 29.23], abs=0.01)
    rgb = np.random.default_rng(0).uniform(0, 255, (200, 3))
    assert np.allclose(oklab_to_srgb(srgb_to_oklab(rgb)), rgb, atol=1e-4)


def test_shares_count_pixels() -> None:
    pixels = np.array([[255, 0, 0]] * 3 + [[0, 0, 255]], np.uint8)
    named, fair = term_shares(pixels)
    assert named.sum() == pytest.approx(1.0)
    assert named[COLOR_TERMS.index("red")] == pytest.approx(0.75)
    assert fair[COLOR_TERMS.index("blue")] == pytest.approx(0.25)
