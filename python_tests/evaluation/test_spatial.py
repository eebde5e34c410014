"""Where regions lie relative to each other, on masks drawn for the purpose."""

import numpy as np
import numpy.typing as npt
import pytest

from fastregion.evaluation.spatial import position_words, stated_positions


def _box(x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((100, 150), bool)
    mask[y0:y1, x0:x1] = True
    return mask


_FRAME = _box(20, 20, 80, 80) & ~_box(35, 35, 65, 65)


@pytest.mark.parametrize(
    ("first", "second", "words", "opposite"),
    [
        (_box(5, 40, 25, 60), _box(100, 42, 120, 62), {"left of"}, {"right of"}),
        (_box(50, 5, 70, 25), _box(55, 70, 75, 90), {"above"}, {"below"}),
        # On a diagonal either direction is right.
        (_box(5, 5, 25, 25), _box(60, 50, 80, 70), {"left of", "above"}, {"right of", "below"}),
        (_box(35, 35, 65, 65), _FRAME, {"inside", "touching", "overlapping"}, None),
        # All around, but with a gap: a matter of taste.
        (_box(45, 45, 55, 55), _box(20, 20, 80, 80) & ~_box(43, 43, 57, 57), set(), None),
        (
            _box(5, 40, 25, 60),
            _box(25, 40, 45, 60),
            {"left of", "touching", "overlapping"},
            {"right of", "touching", "overlapping"},
        ),
        (_box(5, 40, 25, 60), _box(15, 40, 35, 60), {"overlapping", "touching"}, None),
        # A sliver in common: whether they overlap is a matter of taste.
        (_box(5, 40, 25, 60), _box(24, 40, 45, 60), set(), None),
        # Half enclosed: likewise.
        (_box(35, 35, 50, 50), _box(35, 20, 80, 60) & ~_box(35, 35, 50, 50), set(), None),
        # Apart, but one above the other's middle: no direction is clear.
        (_box(45, 40, 50, 45), _box(30, 38, 40, 48) | _box(56, 38, 66, 48), set(), None),
    ],
)
def test_position_words(
    first: npt.NDArray[np.bool_],
    second: npt.NDArray[np.bool_],
    words: set[str],
    opposite: set[str] | None,
) -> None:
    assert position_words(first, second) == words
    if opposite is not None:
        assert position_words(second, first) == opposite


def test_around_is_the_other_side_of_inside() -> None:
    inner = _box(35, 35, 65, 65)
    assert "around" in position_words(_FRAME, inner)
    assert "inside" not in position_words(_FRAME, inner)


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("<Prompt0> is to the left of <Prompt1>.", {"left of"}),
        ("It lies above and to the right of it.", {"above", "right of"}),
        ("<Prompt1> surrounds <Prompt0>.", {"around"}),
        ("<Prompt0> is surrounded by <Prompt1>", {"inside"}),
        ("They overlap.", {"overlapping"}),
        ("<Prompt0> is red.", set()),
    ],
)
def test_stated_positions(sentence: str, words: set[str]) -> None:
    assert stated_positions(sentence) == words
