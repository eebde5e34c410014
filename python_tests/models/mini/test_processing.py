import numpy as np
import pytest
import torch

from fastregion.models.mini import MiniConfig
from fastregion.models.mini.processing import OUTSIDE, RegionTiles, TileCutter

CONFIG = MiniConfig()


def _mask(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def test_shapes_and_dtypes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    cutter = TileCutter(image, CONFIG)
    one = cutter.cut([_mask(90, 130, (10, 10, 40, 30))])
    two = cutter.cut([_mask(90, 130, (10, 10, 40, 30)), _mask(90, 130, (60, 5, 70, 80))])
    tiles = RegionTiles.concatenate([one, two])
    assert tiles.thumbnails.shape == (2, 80, 80, 3)
    assert tiles.thumbnail_masks.shape == (2, 80, 80)
    assert tiles.details.shape == (3, 128, 128, 3)
    assert tiles.detail_masks.shape == (3, 128, 128)
    assert tiles.detail_boxes.shape == tiles.thumbnail_boxes.shape == (3, 4)
    assert tiles.geometry.shape == (3, 11)
    assert tiles.thumbnails.dtype == tiles.details.dtype == torch.uint8
    assert tiles.thumbnail_masks.dtype == tiles.detail_masks.dtype == torch.bool
    # The thumbnail's mask is the union, each detail tile shows its own region.
    assert torch.equal(
        tiles.thumbnail_masks[1] & tiles.thumbnail_masks[0], tiles.thumbnail_masks[0]
    )
    assert torch.equal(tiles.detail_masks[1], tiles.detail_masks[0])
    assert not torch.equal(tiles.detail_masks[2], tiles.detail_masks[0])


def test_the_detail_tile_is_centred_and_square() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[80:120, 140:160] = 255
    tiles = TileCutter(image, CONFIG).cut([_mask(200, 300, (140, 80, 160, 120))])
    # 52 pixels a side around a box of 20 x 40: the box covers 20/52 x 40/52 of the tile.
    covered = tiles.detail_masks[0]
    assert covered.any(dim=0).sum() == pytest.approx(128 * 20 / 52, abs=1.5)
    assert covered.any(dim=1).sum() == pytest.approx(128 * 40 / 52, abs=1.5)
    bright = tiles.details[0, ..., 0] > 127
    assert (bright ^ covered).float().mean() < 0.02
    # The replay box is square, around the middle, 1.1 times the longer side.
    x0, y0, x1, y1 = tiles.detail_boxes[0].tolist()
    assert x1 - x0 == pytest.approx(y1 - y0)
    assert y1 - y0 == pytest.approx(1.1 * 40 / 52 * 8)
    assert (y0 + y1) / 2 == pytest.approx(4.0, abs=0.1)
    thumbnail_box = tiles.thumbnail_boxes[0].tolist()
    assert thumbnail_box == pytest.approx([140 / 60, 80 / 40, 160 / 60, 120 / 40])


def test_geometry_is_centroid_box_area_and_contact() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    tiles = TileCutter(image, CONFIG).cut([_mask(40, 80, (10, 20, 30, 40))])
    area = np.log2(20 * 20 / (40 * 80)) / 8
    bottom = (20 / 20) ** 0.5
    expected = [20 / 80, 30 / 40, 10 / 80, 20 / 40, 30 / 80, 40 / 40, area, 0, 0, 0, bottom]
    assert tiles.geometry[0].tolist() == pytest.approx(expected)


def test_beyond_the_image_is_gray_and_outside_the_mask() -> None:
    image = np.full((60, 60, 3), 255, np.uint8)
    tiles = TileCutter(image, CONFIG).cut([np.ones((60, 60), bool)])
    border = tiles.details[0, 0]
    assert (border == OUTSIDE).all()
    assert not tiles.detail_masks[0, 0].any()
    assert tiles.detail_masks[0, 64, 64]
    # The region has the share of the tile that its box has of the window of 78 pixels.
    assert tiles.detail_masks[0].float().mean() == pytest.approx((60 / 78) ** 2, abs=0.02)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (59, 39, 60, 40), (30, 0, 31, 40), (0, 20, 60, 21)])
def test_thin_and_tiny_regions_keep_pixels_in_their_tile(box: tuple[int, int, int, int]) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    tiles = TileCutter(image, CONFIG).cut([_mask(40, 60, box)])
    assert tiles.detail_masks[0].any()
    assert torch.isfinite(tiles.detail_boxes).all()


def test_inputs_are_not_modified() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    mask = _mask(50, 70, (3, 4, 30, 40))
    before = image.copy(), mask.copy()
    TileCutter(image, CONFIG).cut([mask])
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])


def _stripes(height: int, width: int, period: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, np.arange(width) % period < period // 2] = 255
    return image


def test_the_texture_tile_keeps_what_the_detail_tile_loses() -> None:
    """Stripes of the finest period that counts, over nearly all of a picture."""
    tiles = TileCutter(_stripes(500, 600, 8), CONFIG).cut([_mask(500, 600, (10, 10, 590, 490))])
    assert tiles.textures.shape == (1, 96, 96, 3)
    assert tiles.texture_masks.all()
    row, lost = tiles.textures[0, 48, :, 0].float(), tiles.details[0, 64, 20:108, 0].float()
    assert row.std() > 80
    assert lost.std() < 30
    # 64 pixels of the picture: eight periods, twelve pixels of the tile each.
    spectrum = torch.fft.rfft(row - row.mean()).abs()
    assert int(spectrum.argmax()) == 8


@pytest.mark.parametrize("box", [(3, 5, 9, 9), (0, 0, 2, 60), (70, 55, 80, 60), (0, 0, 80, 60)])
def test_the_texture_tile_lies_where_the_region_is_dense(box: tuple[int, int, int, int]) -> None:
    mask = _mask(60, 80, box)
    tiles = TileCutter(_stripes(60, 80, 8), CONFIG).cut([mask])
    x0, y0, x1, y1 = box
    side = round(min(64.0, max(max(x1 - x0, y1 - y0) / 2, CONFIG.min_detail)))
    possible = min(x1 - x0, side) * min(y1 - y0, side) / side**2
    assert tiles.texture_masks.float().mean() == pytest.approx(possible, abs=0.08)


def test_the_texture_tile_of_an_arch_is_not_its_empty_middle() -> None:
    mask = _mask(300, 300, (50, 50, 250, 250)) & ~_mask(300, 300, (120, 120, 180, 250))
    tiles = TileCutter(_stripes(300, 300, 8), CONFIG).cut([mask])
    assert tiles.texture_masks.float().mean() > 0.95
