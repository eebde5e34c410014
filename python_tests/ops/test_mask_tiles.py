"""mask_tiles against the definition pixel by pixel, on every backend."""

import os

import numpy as np
import pytest
import simt_module
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fastregion.ops import BitMasks, mask_tiles
from fastregion.ops.resample import nearest_table

# (height, width) of the mask, (rows, columns), (tile height, tile width)
SHAPES = [
    ((1, 1), (1, 1), (1, 1)),
    ((5, 7), (2, 3), (4, 9)),
    ((64, 64), (1, 1), (64, 64)),
    ((97, 131), (3, 2), (16, 33)),
    ((40, 300), (2, 2), (70, 65)),
    ((300, 40), (1, 4), (8, 64)),
    ((5, 70), (1, 24), (4, 3)),  # larger, and yet most tiles repeat no column
]


def tiles_by_pixel(mask: Tensor, grid: tuple[int, int], tile: tuple[int, int]) -> Tensor:
    """[T, th, tw] by the integer rule, one pixel at a time."""
    height, width = mask.shape
    pixels = mask.tolist()
    tiles = np.zeros((grid[0] * grid[1], *tile), dtype=bool)
    for i in range(grid[0] * tile[0]):
        for j in range(grid[1] * tile[1]):
            y = i * height // (grid[0] * tile[0])
            x = j * width // (grid[1] * tile[1])
            number = i // tile[0] * grid[1] + j // tile[1]
            tiles[number, i % tile[0], j % tile[1]] = pixels[y][x]
    return torch.from_numpy(tiles)


def make_masks(height: int, width: int) -> Tensor:
    """Noise, empty, full, a box, a frame along the border, a checkerboard."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    box = (y >= height // 3) & (y < height - 1) & (x >= width // 4) & (x <= width // 2)
    frame = (y == 0) | (x == 0) | (y == height - 1) | (x == width - 1)
    noise = torch.rand(height, width) > 0.5
    full = torch.ones(height, width, dtype=torch.bool)
    return torch.stack((noise, ~full, full, box, frame, (x + y) % 2 == 0))


@pytest.mark.parametrize(("size", "grid", "tile"), SHAPES)
def test_by_pixel(backend, size, grid, tile) -> None:
    masks = make_masks(*size)
    expected = torch.stack([tiles_by_pixel(mask, grid, tile) for mask in masks])
    small = torch.stack([tiles_by_pixel(mask, (1, 1), tile) for mask in masks])
    tiles = mask_tiles(masks.to(backend.device), grid, tile, False, backend=backend.name)
    assert torch.equal(tiles.unpack().cpu(), expected)
    tiles = mask_tiles(masks.to(backend.device), grid, tile, backend=backend.name)
    assert torch.equal(tiles.unpack().cpu(), torch.cat((small, expected), dim=1))


# The exact quotient is another one somewhere, except in the first; the last is half of a canvas.
PHOTOS = [(333, 517), (480, 640), (720, 1280), (1080, 1920), (2160, 3840), (448, 672)]


@pytest.mark.parametrize("size", PHOTOS, ids=str)
def test_is_nearest_interpolation(backend, size) -> None:
    """The rule is torch's nearest, its float32 included, at GAR's tile size."""
    mask = torch.rand(size) > 0.5

    def resized(rows: int, columns: int) -> Tensor:
        canvas = F.interpolate(mask[None, None].byte(), (rows * 448, columns * 448), mode="nearest")
        tiles = canvas[0, 0].view(rows, 448, columns, 448).transpose(1, 2)
        return tiles.reshape(-1, 448, 448).bool()

    for grid in ((2, 3), (3, 4)):
        expected = torch.cat((resized(1, 1), resized(*grid)))
        tiles = mask_tiles(mask.to(backend.device), grid, 448, backend=backend.name)
        assert torch.equal(tiles.unpack().cpu(), expected), grid


def test_floor_tables_are_torchs() -> None:
    rng = np.random.default_rng(0)
    pairs = [*rng.integers(1, 4000, (300, 2)).tolist(), (7, 7), (7, 14), (14, 7), (1, 1), (1, 5)]
    pairs += [(side, 448 * k) for size in PHOTOS for side in size for k in range(1, 9)]
    for source, size in pairs:
        line = torch.arange(source, dtype=torch.float32)[None, None]
        expected = F.interpolate(line, size, mode="nearest")[0, 0].long()
        found = nearest_table(source, (size,), "floor", torch.device("cpu"))
        assert torch.equal(found, expected), (source, size)


@pytest.mark.parametrize("size", [(333, 517), (448, 896), (97, 30), (900, 300)], ids=str)
def test_centre_is_pillows_nearest(backend, size) -> None:
    """URECA's tiles, thumbnail rule included; steps that meet pixel borders too."""
    mask = torch.rand(size) > 0.6
    picture = Image.fromarray(255 * mask.byte().numpy())

    def resized(height: int, width: int) -> Tensor:
        return torch.from_numpy(np.array(picture.resize((width, height), Image.Resampling.NEAREST)))

    expected = resized(2 * 150, 3 * 56).view(2, 150, 3, 56).transpose(1, 2).reshape(6, 150, 56)
    expected = torch.cat((resized(150, 56)[None], expected)) > 0
    tiles = mask_tiles(
        mask.to(backend.device), (2, 3), (150, 56), rule="centre", backend=backend.name
    )
    assert torch.equal(tiles.unpack().cpu(), expected)


@pytest.mark.parametrize(
    ("source", "size", "below"),
    [
        (57, 56, ()),
        (173, 448, ()),
        (640, 336, ()),
        (735, 448, range(64, 448, 64)),
        (1470, 448, range(32, 448, 32)),
    ],
)
def test_opencv_rounds_down(backend, source: int, size: int, below) -> None:
    """floor(i * source / size), but for the places where cv2.resize shows the column before."""
    marked = torch.eye(source, dtype=torch.bool, device=backend.device)  # row k is column k alone
    tiles = mask_tiles(
        marked[:, None], (1, 1), (1, size), False, rule="opencv", backend=backend.name
    )
    found = tiles.unpack().cpu()[:, 0, 0].byte().argmax(0)  # the column that each pixel shows
    expected = [place * source // size - (place in below) for place in range(size)]
    assert found.tolist() == expected


def test_packed_and_one_mask(backend) -> None:
    masks = make_masks(20, 70).to(backend.device)
    whole = mask_tiles(masks, (2, 2), 16, backend=backend.name)
    assert whole.shape == (6, 5, 16, 16)
    packed = mask_tiles(BitMasks.pack(masks), (2, 2), 16, backend=backend.name)
    assert torch.equal(packed.words, whole.words)
    one = mask_tiles(masks[0].byte() * 255, (2, 2), 16, backend=backend.name)
    assert torch.equal(one.words, whole.words[0])
    strided = BitMasks(BitMasks.pack(masks).words[::2], 70)
    again = mask_tiles(strided, (2, 2), 16, backend=backend.name)
    assert torch.equal(again.words, whole.words[::2])


def test_no_masks(backend) -> None:
    none = torch.zeros(0, 4, 5, dtype=torch.bool, device=backend.device)
    assert mask_tiles(none, (1, 2), 8, backend=backend.name).shape == (0, 3, 8, 8)


def test_opcheck_and_compile(backend) -> None:
    words = BitMasks.pack(make_masks(20, 70).to(backend.device)).words
    arguments = (words, 70, [2, 2], [16, 16], True, "centre", backend.name)
    torch.library.opcheck(torch.ops.fastregion.mask_tiles.default, arguments)

    def run(masks: Tensor) -> Tensor:
        return mask_tiles(masks, (2, 2), 16, backend=backend.name).unpack(backend=backend.name)

    masks = make_masks(20, 70).to(backend.device)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(masks), run(masks))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"masks": torch.zeros(4, 4)}, TypeError, "masks must be bool or uint8, got float32"),
        ({"masks": torch.zeros(4, 4).long()}, TypeError, "masks must be bool or uint8, got int64"),
        ({"masks": torch.zeros(1, 1, 4, 4).bool()}, ValueError, r"\[M, H, W\], got .*1, 1, 4, 4"),
        (
            {"masks": torch.zeros(4, 0).bool()},
            ValueError,
            r"at least one pixel, got shape \(4, 0\)",
        ),
        ({"grid": (1, 0)}, ValueError, r"grid must be two integers of at least 1, got \(1, 0\)"),
        ({"tile_size": 0}, ValueError, "tile_size must be two integers of at least 1"),
        ({"rule": "nearest"}, ValueError, "rule must be floor, centre or opencv, got 'nearest'"),
    ],
)
def test_errors(changes: dict, error: type[Exception], message: str) -> None:
    arguments = {"masks": torch.zeros(4, 4).bool(), "grid": (1, 1), "tile_size": 8} | changes
    with pytest.raises(error, match=message):
        mask_tiles(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("large", ["mask", "tile"])
def test_more_than_31_bits(backend, large: str) -> None:
    """2.2e9 pixels in or out, every row and column of them with pixels of its own."""
    if backend.name == "reference" or os.environ.get(simt_module.VARIABLE):
        pytest.skip("would take minutes, or 100 GB")
    side, small = 64 * 730, 64 * 3
    y, x = torch.rand(side) > 0.5, torch.rand(side) > 0.5
    columns = BitMasks.pack(x[None]).words
    if large == "mask":
        words = torch.where(y[:, None], columns, ~columns).to(backend.device)
        grid, tile = (1, 1), small
    else:
        words = torch.where(y[:small, None], columns[:, :3], ~columns[:, :3]).to(backend.device)
        grid, tile = (1, 2), side // 2
    size, height = len(words), side if large == "tile" else small
    result = mask_tiles(BitMasks(words, size), grid, (height, tile), False, backend=backend.name)
    columns = torch.arange(height) * size // height  # the canvas is square
    for row in (0, height // 2, height - 1):
        line = BitMasks(result.words[:, row], tile).unpack(backend="reference").flatten()
        assert torch.equal(line.cpu(), x[columns] ^ ~y[row * size // height])
