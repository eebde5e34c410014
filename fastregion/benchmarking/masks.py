"""Masks to mask embeddings, as GAR-1B makes them.

One 1500 x 2250 mask, resized by nearest neighbour to a thumbnail and 4 x 4 tiles of 448, embedded
by a 14 x 14 convolution to 1024 channels, added to the patch tokens.

Floor: the mask is read once (3.4 MB as bytes, 0.4 MB as bits); 17 tiles of bits are 0.4 MB; the
dense result of 17 x 1024 tokens is 71 MB written, and as much read where it is added to tokens. The
convolution as published is 17 x 1024 x 588 x 1024 multiply-adds = 21 GFLOP; on bits an outline
costs about 8 additions of 1024 channels for each of a few hundred patches, below 10 MFLOP.

Peer: "published" is the released code's arithmetic in plain torch: resize, split, repeat to three
channels, normalise; then undo that, round, compare, convolve, flatten and add.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from fastregion.benchmarking.measure import Case, Ways
from fastregion.ops import mask_patch_embed, mask_tiles

_TILE, _PATCH, _CHANNELS = 448, 14, 1024
_NO_REGION = 5
HEIGHT, WIDTH = 1500, 2250


def make_mask(kind: str, device: torch.device) -> Tensor:
    """An ellipse of 4.7 % of the picture, or noise: bool ``[HEIGHT, WIDTH]``."""
    torch.manual_seed(0)
    if kind == "noise":
        return (torch.rand(HEIGHT, WIDTH) > 0.5).to(device)
    y = torch.arange(HEIGHT)[:, None] / HEIGHT
    x = torch.arange(WIDTH)[None, :] / WIDTH
    return (((y - 0.4) / 0.15) ** 2 + ((x - 0.6) / 0.1) ** 2 < 1).to(device)


def _published_tiles(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Region-id picture ``[T, 3, 448, 448]``, normalised."""
    picture = torch.where(mask, 0, _NO_REGION).to(torch.uint8)[None, None]
    thumbnail = functional.interpolate(picture, (_TILE, _TILE), mode="nearest")
    canvas = functional.interpolate(picture, (grid[0] * _TILE, grid[1] * _TILE), mode="nearest")
    split = canvas.view(grid[0], _TILE, grid[1], _TILE).transpose(1, 2)
    tiles = torch.cat((thumbnail, split.reshape(-1, 1, _TILE, _TILE))).expand(-1, 3, -1, -1)
    return (tiles.float() - 127.5) / 127.5


def _published_embedding(tiles: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    ids = torch.round((tiles + 1) / 2 * 255).long().clamp(0, _NO_REGION)
    binary = (ids != _NO_REGION).to(weight.dtype)
    return tokens + functional.conv2d(binary, weight, stride=_PATCH).flatten(2).transpose(1, 2)


def _make_tiles(kind: str, device: torch.device) -> Ways:
    mask, grid = make_mask(kind, device), (4, 4)
    return Ways(
        ours=lambda: mask_tiles(mask, grid, _TILE),
        peers={"published": lambda: _published_tiles(mask, grid)},
        bytes=HEIGHT * WIDTH + 17 * _TILE * _TILE // 8,
        comparable=lambda tiles: (
            tiles[:, 0] < _NO_REGION / 127.5 - 1 if isinstance(tiles, Tensor) else tiles.unpack()
        ),
    )


def _make_embedding(
    kind: str, grid: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Ways:
    mask = make_mask(kind, device)
    num_tiles = grid[0] * grid[1] + 1
    weight = torch.randn(_CHANNELS, 3, _PATCH, _PATCH, device=device).to(dtype)
    tokens = torch.randn(num_tiles, (_TILE // _PATCH) ** 2, _CHANNELS, device=device).to(dtype)
    binary = mask_tiles(mask, grid, _TILE).unpack()[:, None].expand(-1, 3, -1, -1).to(dtype)

    def convolution() -> Tensor:
        embedded = functional.conv2d(binary, weight, stride=_PATCH)
        return tokens + embedded.flatten(2).transpose(1, 2)

    return Ways(
        ours=lambda: mask_patch_embed(mask_tiles(mask, grid, _TILE), weight, add_to=tokens),
        peers={
            "published": lambda: _published_embedding(_published_tiles(mask, grid), weight, tokens),
            "convolution and add alone": convolution,
        },
        bytes=2 * tokens.numel() * tokens.element_size(),
        tolerance=1e-3 if dtype == torch.float32 else 5e-2,
    )


CASES = (
    *(
        Case(
            operator="mask_tiles",
            shape=f"{HEIGHT} x {WIDTH} to 17 tiles, {kind}",
            dtype="bool",
            make=partial(_make_tiles, kind),
        )
        for kind in ("ellipse", "noise")
    ),
    *(
        Case(
            operator="mask_patch_embed",
            shape=f"mask to {grid[0] * grid[1] + 1} tiles, {_CHANNELS} channels, {kind}",
            dtype=str(dtype).removeprefix("torch."),
            make=partial(_make_embedding, kind, grid, dtype),
        )
        for grid in ((2, 2), (4, 4))
        for kind in ("ellipse", "noise")
        for dtype in (torch.float32, torch.bfloat16)
    ),
)
