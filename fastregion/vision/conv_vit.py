"""A small vision transformer on top of convolutions, which accepts a mask embedding.

Convolutions see textures and outlines long before attention has learned to (Xiao et al., "Early
convolutions help transformers see better", 2021); the few blocks of attention above them see the
whole tile. Patches are embedded as in any vision transformer, the mask is added there, and two
convolutions of stride 2 then take 4x4 patches to one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.ops import Linear


@dataclass(frozen=True, kw_only=True)
class ConvViTConfig:
    """Sizes of the tower; ``tile_sizes`` are the sides in pixels of the square inputs it knows."""

    patch_size: int = 4
    patch_hidden_size: int = 64
    conv_hidden_size: int = 128
    hidden_size: int = 192
    num_layers: int = 2
    num_heads: int = 6
    tile_sizes: tuple[int, ...] = (80, 96, 128)

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads, "
                f"got {self.hidden_size} and {self.num_heads}"
            )
        for size in self.tile_sizes:
            if size % self.stride:
                raise ValueError(
                    f"tile_sizes must be multiples of 4 * patch_size = {self.stride}, got {size}"
                )

    @property
    def stride(self) -> int:
        """Pixels a side of a token."""
        return 4 * self.patch_size


class MLP(nn.Module):
    """Linear, GELU, linear, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, 4 * width)
        self.fc2 = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Works on the last dimension."""
        y: Tensor = self.fc2(_gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[T, N, D]`` to the same."""
        num_tiles, num_tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).unflatten(2, (3, self.num_heads, width // self.num_heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [T, heads, N, head_dim]
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(attended.transpose(1, 2).reshape(num_tiles, num_tokens, width))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class NormedConv(nn.Module):
    """A 3x3 convolution and a batch norm with the statistics of each tile size.

    Thumbnails and detail tiles show the world at different scales, so one mean does not fit both.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, tile_sizes: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.norms = _norms(out_channels, tile_sizes)

    def forward(self, x: Tensor, tile_size: int) -> Tensor:
        """``[T, C, n, n]`` to ``[T, D, n / stride, n / stride]``."""
        y: Tensor = self.norms[str(tile_size)](self.conv(x))
        return y


class ResidualConv(nn.Module):
    """Two normed convolutions beside the identity."""

    def __init__(self, width: int, tile_sizes: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = NormedConv(width, width, 1, tile_sizes)
        self.conv2 = NormedConv(width, width, 1, tile_sizes)

    def forward(self, x: Tensor, tile_size: int) -> Tensor:
        """``[T, C, n, n]`` to the same."""
        y = self.conv2(_gelu(self.conv1(x, tile_size)), tile_size)
        return _gelu(x + y)


def _norms(width: int, tile_sizes: Sequence[int]) -> nn.ModuleDict:
    return nn.ModuleDict({str(size): nn.BatchNorm2d(width) for size in tile_sizes})


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class ConvViT(nn.Module):
    """Tiles ``[T, S, S, 3]`` and their mask embedding to tokens ``[T, (S / 4p)^2, hidden]``."""

    def __init__(self, config: ConvViTConfig) -> None:
        super().__init__()
        self.config = config
        inner, middle, width = (
            config.patch_hidden_size,
            config.conv_hidden_size,
            config.hidden_size,
        )
        sizes = config.tile_sizes
        self.patch_embedding = Linear(3 * config.patch_size**2, inner)
        self.patch_norms = _norms(inner, sizes)
        self.down1 = NormedConv(inner, middle, 2, sizes)
        self.residual1 = ResidualConv(middle, sizes)
        self.down2 = NormedConv(middle, width, 2, sizes)
        self.residual2 = ResidualConv(width, sizes)
        self.position_embedding = nn.ParameterDict(
            {
                str(size): nn.Parameter(0.2 * torch.randn((size // config.stride) ** 2, width))
                for size in sizes
            }
        )
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)

    def patches(self, tiles: Tensor) -> Tensor:
        """Cuts tiles ``[T, S, S, 3]`` in 0..255 into patches ``[T, N, p * p * 3]`` in -2..2."""
        num_tiles, size = tiles.shape[:2]
        p = self.config.patch_size
        n = size // p
        cut = tiles.view(num_tiles, n, p, n, p, 3).transpose(2, 3)
        cut = cut.reshape(num_tiles, n * n, p * p * 3)
        return (cut.to(self.patch_embedding.weight.dtype) - 127.5) / 63.75

    def forward(self, tiles: Tensor, mask_embedding: Tensor) -> Tensor:
        """See the class; ``mask_embedding`` is ``[T, (S / p)^2, patch_hidden]``."""
        size = tiles.shape[1]
        side = size // self.config.patch_size
        x = self.patch_embedding(self.patches(tiles)) + mask_embedding
        # [T, D, side, side]; channels stay last in memory
        x = x.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        x = _gelu(self.patch_norms[str(size)](x))
        x = self.residual1(_gelu(self.down1(x, size)), size)
        x = self.residual2(_gelu(self.down2(x, size)), size)
        x = x.flatten(2).transpose(1, 2) + self.position_embedding[str(size)]
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.norm(x)
        return tokens
