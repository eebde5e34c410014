"""Views of a picture and its segments, as Pix2Cap is trained on them."""

from __future__ import annotations

import numpy as np
import pytest

from fastregion.regions import Region
from fastregion.training.data import BadRow
from fastregion.training.systems.pix2cap_view import View, id_map


def left_and_right(size: tuple[int, int]) -> list[Region]:
    left = np.zeros(size, bool)
    left[:, : size[1] // 4] = True
    return [Region.from_mask(left), Region.from_mask(~left)]


def test_a_view_shows_picture_and_masks_alike() -> None:
    """Where each mask is one colour in the picture, it still is in its view."""
    size = (300, 200)
    found = left_and_right(size)
    image = np.zeros((*size, 3), np.uint8)
    image[found[0].mask], image[found[1].mask] = (255, 0, 0), (0, 0, 255)
    ids = id_map(found, size)
    for flip, scale, offset in ((False, 0.5, 0.0), (True, 1.7, 0.3), (True, 2.0, 1.0)):
        one = View(side=512, flip=flip, scale=scale, offset=offset)
        view, numbers = one.image(image), one.ids(ids)
        assert view.shape == (512, 512, 3)
        assert numbers.shape == (512, 512)
        red, blue, outside = (numbers == k for k in (1, 2, 0))
        assert (view[outside] == 128).all()
        # Of the borders, on which the picture is mixed, a column or two is left out.
        for mask, channel in ((red, 0), (blue, 2)):
            if mask.any():
                inside = mask & np.roll(mask, 6, 1) & np.roll(mask, -6, 1)
                assert (view[inside][:, channel] == 255).all()
        assert red.any() or scale > 1
        assert outside.any() == (scale < 1 or 200 / 300 * scale < 1)


def test_how_large_and_where_a_view_is() -> None:
    published = View(side=1024, flip=False, scale=1.5, offset=0.5)
    assert published.size((300, 200)) == (1536, 1024)
    ids = np.arange(1, 301, dtype=np.int32)[:, None].repeat(200, 1)
    view = published.ids(ids)
    # 1536 rows, of which 256 above are cut off: row 0 of the view is row 256 / 5.12 = 50.
    assert view[0, 0] == 51
    assert view[-1, 0] == 250
    half = View(side=1024, flip=False, scale=0.5, offset=0.9).ids(ids)
    assert half[511, 300] == 300
    assert not half[512:].any()
    assert not half[:, 341:].any()
    tiny = View(side=1024, flip=False, scale=0.1, offset=0.0)
    assert tiny.size((10_000, 20)) == (102, 1)  # never nothing


def test_numbers_of_segments() -> None:
    size = (8, 40)
    first, second = left_and_right(size)
    found = id_map([second, first], size)
    assert found.dtype == np.int32
    assert (found[first.mask] == 2).all()
    assert (found[second.mask] == 1).all()
    with pytest.raises(BadRow, match=r"mask: expected shape \(8, 41\) to match the image") as bad:
        id_map([first], (8, 41))
    assert bad.value.kind == "size mismatch"
    with pytest.raises(BadRow, match="but those of region 1 and region 2 do"):
        id_map([first, second, Region.from_box((20, 0, 22, 2), size)], size)


def test_draws_cover_the_published_ranges() -> None:
    rng = np.random.default_rng(1)
    drawn = [View.draw(1024, rng) for _ in range(400)]
    assert 120 < sum(one.flip for one in drawn) < 280
    scales = [one.scale for one in drawn]
    assert 0.1 <= min(scales) < 0.15
    assert 1.95 < max(scales) <= 2.0
    assert max(one.offset for one in drawn) > 0.95
    assert {one.side for one in drawn} == {1024}
