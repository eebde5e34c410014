"""A small vision transformer that merges 2x2 patches early and accepts a mask embedding.

Fine patches see textures and outlines, but attention over them would cost four times the tokens. So
each patch is first worked on by itself (one MLP), 2x2 neighbours are then merged into one token,
and attention runs on those.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class MergingViTConfig:
    """Sizes of the tower; ``tile_sizes`` are the sides in pixels of the square inputs it knows."""

    patch_size: int = 8
    patch_hidden_size: int = 128
    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 6
    tile_sizes: tuple[int, ...] = (80, 128)

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads, "
                f"got {self.hidden_size} and {self.num_heads}"
            )
        for size in self.tile_sizes:
            if size % (2 * self.patch_size):
                raise ValueError(
                    f"tile_sizes must be multiples of 2 * patch_size = {2 * self.patch_size}, "
                    f"got {size}"
                )


class MLP(nn.Module):
    """Linear, GELU, linear, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Works on the last dimension."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return y


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[T, N, D]`` to the same."""
        num_tiles, num_tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(num_tiles, num_tokens, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [T, heads, N, head_dim]
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(attended.transpose(1, 2).reshape(num_tiles, num_tokens, width))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class MergingViT(nn.Module):
    """Tiles ``[T, S, S, 3]`` and their mask embedding to tokens ``[T, (S / 2p)^2, hidden]``."""

    def __init__(self, config: MergingViTConfig) -> None:
        super().__init__()
        self.config = config
        inner, width = config.patch_hidden_size, config.hidden_size
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, inner)
        self.position_embedding = nn.ParameterDict(
            {
                str(size): nn.Parameter(0.2 * torch.randn((size // config.patch_size) ** 2, inner))
                for size in config.tile_sizes
            }
        )
        self.patch_norm = nn.LayerNorm(inner)
        self.patch_mlp = MLP(inner)
        self.merge_norm = nn.LayerNorm(4 * inner)
        self.merge = nn.Linear(4 * inner, width)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)

    def patches(self, tiles: Tensor) -> Tensor:
        """Cuts tiles ``[T, S, S, 3]`` in 0..255 into patches ``[T, N, p * p * 3]`` in -1..1."""
        num_tiles, size = tiles.shape[:2]
        p = self.config.patch_size
        n = size // p
        cut = tiles.view(num_tiles, n, p, n, p, 3).transpose(2, 3).reshape(num_tiles, n * n, -1)
        return (cut.to(self.patch_embedding.weight.dtype) - 127.5) / 127.5

    def forward(self, tiles: Tensor, mask_embedding: Tensor) -> Tensor:
        """See the class; ``mask_embedding`` is ``[T, (S / p)^2, patch_hidden]``."""
        size = tiles.shape[1]
        side = size // self.config.patch_size
        x = self.patch_embedding(self.patches(tiles)) + mask_embedding
        x = x + self.position_embedding[str(size)]
        x = x + self.patch_mlp(self.patch_norm(x))
        # 2x2 neighbours to one token: [T, side/2, 2, side/2, 2, D] -> [T, (side/2)^2, 4 D]
        half = side // 2
        x = (
            x.view(-1, half, 2, half, 2, x.shape[-1])
            .transpose(2, 3)
            .reshape(len(x), half * half, -1)
        )
        x = self.merge(self.merge_norm(x))
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.norm(x)
        return tokens
