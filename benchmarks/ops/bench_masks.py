"""mask_tiles and mask_patch_embed, side by side with the chain they replace.

    pip install ".[bench]"
    pytest benchmarks/ops/bench_masks.py --benchmark-columns=median,iqr

GAR-1B: one 1500 x 2250 mask, resized by nearest neighbour to a thumbnail and 4 x 4 tiles of 448,
embedded by a 14 x 14 convolution to 1024 channels, added to the patch tokens. One thread, float32.

Floor: the mask is read once (3.4 MB as bytes, 0.4 MB as bits); 17 tiles of bits are 0.4 MB; the
dense result of 17 x 1024 tokens is 71 MB written, and as much read where it is added to tokens. The
convolution as published is 17 x 1024 x 588 x 1024 multiply-adds = 21 GFLOP; on bits an outline
costs about 8 additions of 1024 channels for each of a few hundred patches, below 10 MFLOP.

DAM: grey 384 x 384 masks, -1 outside, 14 x 14 convolution to 1152 channels with a bias, added to
729 tokens each. Floor: 0.15 MB read a mask; dense, 3.4 MB of tokens read and written each; in place
only the tokens that the mask touches. The convolution is 729 x 196 x 1152 multiply-adds = 0.33
GFLOP a mask, which noise costs in full.

The peer is the released code's arithmetic in plain torch: resize, split, repeat to three channels,
normalise; then undo that, round, compare, convolve, flatten and add.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fastregion.ops import (
    BitMasks,
    mask_patch_embed,
    mask_patch_embed_,
    mask_patch_table,
    mask_tiles,
)

TILE, PATCH, CHANNELS = 448, 14, 1024
NO_REGION = 5
WAYS = ["published", "fastregion"]


def make_mask(kind: str, height: int, width: int) -> Tensor:
    if kind == "noise":
        return torch.rand(height, width) > 0.5
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((y / height - 0.4) / 0.15) ** 2 + ((x / width - 0.6) / 0.1) ** 2 < 1


def published_tiles(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Region-id picture [T, 3, 448, 448], normalised."""
    picture = torch.where(mask, 0, NO_REGION).to(torch.uint8)[None, None]
    thumbnail = functional.interpolate(picture, (TILE, TILE), mode="nearest")
    canvas = functional.interpolate(picture, (grid[0] * TILE, grid[1] * TILE), mode="nearest")
    split = canvas.view(grid[0], TILE, grid[1], TILE).transpose(1, 2).reshape(-1, 1, TILE, TILE)
    tiles = torch.cat((thumbnail, split)).expand(-1, 3, -1, -1)
    return (tiles.float() - 127.5) / 127.5


def published_embedding(tiles: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    ids = torch.round((tiles + 1) / 2 * 255).long().clamp(0, NO_REGION)
    binary = (ids != NO_REGION).to(weight.dtype)
    return tokens + functional.conv2d(binary, weight, stride=PATCH).flatten(2).transpose(1, 2)


@pytest.fixture(scope="module", params=["ellipse", "noise"])
def mask(request: pytest.FixtureRequest) -> Tensor:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return make_mask(request.param, 1500, 2250)


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return torch.randn(CHANNELS, 3, PATCH, PATCH)


@pytest.mark.parametrize("way", [*WAYS, "fastregion, from bits"])
def test_tiles(benchmark, mask: Tensor, way: str) -> None:
    grid = (4, 4)
    published = published_tiles(mask, grid)[:, 0] < NO_REGION / 127.5 - 1
    assert torch.equal(mask_tiles(mask, grid, TILE).unpack(), published)
    packed = BitMasks.pack(mask)
    calls = {
        "published": lambda: published_tiles(mask, grid),
        "fastregion": lambda: mask_tiles(mask, grid, TILE, backend="cpu"),
        "fastregion, from bits": lambda: mask_tiles(packed, grid, TILE, backend="cpu"),
    }
    benchmark.group = f"tiles 4x4 {'noise' if mask[0].any() else 'ellipse'}"
    benchmark.pedantic(calls[way], rounds=9, warmup_rounds=1)


@pytest.mark.parametrize("way", [*WAYS, "convolution alone", "table kept", "in place"])
@pytest.mark.parametrize("grid", [None, (2, 2), (4, 4)], ids=str)
def test_embedding(
    benchmark, mask: Tensor, weight: Tensor, grid: tuple[int, int] | None, way: str
) -> None:
    values, tiles = published_tiles(mask, grid or (1, 1)), mask_tiles(mask, grid or (1, 1), TILE)
    if grid is None:  # the thumbnail alone
        values, tiles = values[:1], BitMasks(tiles.words[:1], TILE)
    tokens = torch.randn(len(values), (TILE // PATCH) ** 2, CHANNELS)
    table = mask_patch_table(weight)
    result = mask_patch_embed(tiles, weight, add_to=tokens, backend="cpu")
    expected = published_embedding(values, weight, tokens)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)
    binary = tiles.unpack()[:, None].float().expand(-1, 3, -1, -1).contiguous()
    calls = {
        "published": lambda: published_embedding(values, weight, tokens),
        "fastregion": lambda: mask_patch_embed(tiles, weight, add_to=tokens, backend="cpu"),
        "convolution alone": lambda: functional.conv2d(binary, weight, stride=PATCH),
        "table kept": lambda: mask_patch_embed(tiles, weight, add_to=tokens, table=table),
        "in place": lambda: mask_patch_embed_(tokens, tiles, weight, table=table),
    }
    benchmark.group = f"embedding {grid} {'noise' if mask[0].any() else 'ellipse'}"
    benchmark.pedantic(calls[way], rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("way", [*WAYS, "table kept", "in place"])
@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_grey_embedding(benchmark, mask: Tensor, dtype: torch.dtype, batch: int, way: str) -> None:
    inside = functional.interpolate(mask[None, None].float(), (384, 384), mode="bicubic")[0]
    if mask[0].any():  # the resize would flatten the noise
        inside = torch.rand(1, 384, 384)
    levels = inside.clamp(0, 1).mul(255).round().byte().expand(batch, -1, -1).contiguous()
    values = (levels.double() / 255 * 2 - 1).to(dtype)[:, None]
    weight, bias = torch.randn(1152, 1, PATCH, PATCH).to(dtype), torch.randn(1152).to(dtype)
    tokens = torch.randn(batch, 27 * 27, 1152).to(dtype)
    table = mask_patch_table(weight)

    def published() -> Tensor:
        embedded = functional.conv2d(values, weight, bias, stride=PATCH)
        return tokens + embedded.flatten(2).transpose(1, 2)

    result = mask_patch_embed(levels, weight, bias, tokens, outside=-1, backend="cpu")
    tolerance = 1e-3 if dtype == torch.float32 else 0.5
    torch.testing.assert_close(result, published(), rtol=2e-2, atol=tolerance)
    calls = {
        "published": published,
        "fastregion": lambda: mask_patch_embed(levels, weight, bias, tokens, outside=-1),
        "table kept": lambda: mask_patch_embed(
            levels, weight, bias, tokens, outside=-1, table=table
        ),
        "in place": lambda: mask_patch_embed_(tokens, levels, weight, outside=-1, table=table),
    }
    kind = "noise" if mask[0].any() else "ellipse"
    benchmark.group = f"grey embedding, batch {batch}, {dtype}, {kind}"
    benchmark.pedantic(calls[way], rounds=5, warmup_rounds=1)
