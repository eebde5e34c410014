"""Masks to mask embeddings, as GAR-1B and DAM make them.

One 1500 x 2250 mask, resized by nearest neighbour to a thumbnail and 4 x 4 tiles of 448, embedded
by a 14 x 14 convolution to 1024 channels, added to the patch tokens.

Floor: the mask is read once (3.4 MB as bytes, 0.4 MB as bits); 17 tiles of bits are 0.4 MB; the
dense result of 17 x 1024 tokens is 71 MB written, and as much read where it is added to tokens. The
convolution as published is 17 x 1024 x 588 x 1024 multiply-adds = 21 GFLOP; on bits an outline
costs about 8 additions of 1024 channels for each of a few hundred patches, below 10 MFLOP.

DAM: grey tiles of 384 x 384, background -1, a 14 x 14 convolution to 1152 channels with a bias;
32 tiles are 107 MB of tokens. In place, only tokens whose patches are not empty are touched.

Peers: "published" is the released code's arithmetic in plain torch: resize, split, repeat to three
channels, normalise; then undo that, round, compare, convolve, flatten and add. The convolution and
the addition stand for themselves too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from fastregion.benchmarking.measure import Case, Ways
from fastregion.ops import (
    mask_patch_embed,
    mask_patch_embed_,
    mask_patch_table,
    mask_resize,
    mask_tiles,
)

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


@dataclass(frozen=True, kw_only=True)
class _Embedding:
    """What a mask embedding is made of; the table is kept, as a tower in inference does."""

    weight: Tensor
    bias: Tensor | None
    tokens: Tensor
    table: Tensor
    values: Tensor  # what the convolution reads

    def by_convolution(self) -> Tensor:
        embedded = functional.conv2d(self.values, self.weight, self.bias, stride=_PATCH)
        return self.tokens + embedded.flatten(2).transpose(1, 2)


def _embedding(values: Tensor, channels: int, has_bias: bool) -> _Embedding:
    dtype, device = values.dtype, values.device
    weight = torch.randn(channels, values.shape[1], _PATCH, _PATCH).to(device, dtype)
    num_patches = (values.shape[2] // _PATCH) * (values.shape[3] // _PATCH)
    return _Embedding(
        weight=weight,
        bias=torch.randn(channels).to(device, dtype) if has_bias else None,
        tokens=torch.randn(len(values), num_patches, channels).to(device, dtype),
        table=mask_patch_table(weight),
        values=values,
    )


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 1e-2


def _make_gar(
    kind: str, grid: tuple[int, int], dtype: torch.dtype, in_place: bool, device: torch.device
) -> Ways:
    """From the picture of the mask to tokens with its embedding added."""
    mask = make_mask(kind, device)
    tiles = mask_tiles(mask, grid, _TILE).unpack()
    data = _embedding(tiles[:, None].expand(-1, 3, -1, -1).to(dtype), _CHANNELS, False)
    weight, tokens, table = data.weight, data.tokens, data.table

    def added() -> Tensor:
        tiles = mask_tiles(mask, grid, _TILE)
        return mask_patch_embed(tiles, weight, add_to=tokens, table=table)

    buffer = tokens.clone()  # every call adds once more; the first result is the one compared

    def added_in_place() -> Tensor:
        return mask_patch_embed_(buffer, mask_tiles(mask, grid, _TILE), weight, table=table)

    size = tokens.numel() * tokens.element_size()
    return Ways(
        ours=added_in_place if in_place else added,
        peers={
            "published": lambda: _published_embedding(_published_tiles(mask, grid), weight, tokens),
            "convolution and add alone": data.by_convolution,
        },
        bytes=HEIGHT * WIDTH if in_place else HEIGHT * WIDTH + 2 * size,
        tolerance=_tolerance(dtype),
    )


def _make_dam(
    kind: str, batch: int, dtype: torch.dtype, in_place: bool, device: torch.device
) -> Ways:
    """Grey tiles, -1 outside; in place, what is the same for all patches is in the tokens."""
    levels = mask_resize(make_mask(kind, device), 384)
    if kind == "noise":  # the resize flattens it
        levels = torch.randint(256, levels.shape, device=device).byte()
    levels = levels.expand(batch, -1, -1).contiguous()
    data = _embedding((levels.double() / 255 * 2 - 1).to(dtype)[:, None], 1152, True)
    weight, bias, tokens, table = data.weight, data.bias, data.tokens, data.table
    assert bias is not None
    background = bias - weight.float().sum((1, 2, 3))
    buffer = (tokens + background).to(dtype)

    def added() -> Tensor:
        return mask_patch_embed(levels, weight, bias, tokens, outside=-1, table=table)

    def added_in_place() -> Tensor:
        return mask_patch_embed_(buffer, levels, weight, outside=-1, table=table)

    size = tokens.numel() * tokens.element_size()
    return Ways(
        ours=added_in_place if in_place else added,
        peers={"convolution and add": data.by_convolution},
        bytes=levels.numel() + (0 if in_place else 2 * size),
        tolerance=_tolerance(dtype),
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
            operator=f"mask_patch_embed{' in place' if in_place else ''}",
            shape=f"GAR, mask to {grid[0] * grid[1] + 1} tiles, {kind}",
            dtype=str(dtype).removeprefix("torch."),
            make=partial(_make_gar, kind, grid, dtype, in_place),
        )
        for in_place in (False, True)
        for grid in ((2, 2), (4, 4))
        for kind in ("ellipse", "noise")
        for dtype in (torch.float32, torch.bfloat16)
    ),
    *(
        Case(
            operator=f"mask_patch_embed{' in place' if in_place else ''}",
            shape=f"DAM, {batch} grey tile{'s' if batch > 1 else ''}, {kind}",
            dtype=str(dtype).removeprefix("torch."),
            make=partial(_make_dam, kind, batch, dtype, in_place),
        )
        for in_place in (False, True)
        for batch in (1, 32)
        for kind in ("ellipse", "noise")
        for dtype in (torch.float32, torch.bfloat16)
    ),
)
