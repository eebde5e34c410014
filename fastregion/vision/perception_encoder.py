"""Perception Encoder, language-aligned (PE-Lang): the vision tower of Perception-LM and GAR.

    x_0 = norm_pre([cls; P(tile) + m] + e)                                   m: mask embedding
    x <- x + gamma_1 * Attn(LN_1(x)),   x <- x + gamma_2 * MLP(LN_2(x))      in every block

``P`` is the patch projection and ``e`` the learned positions. Queries and keys of patches are also
turned by a rotary embedding of their row and column; the class token, where there is one, gets
neither that nor a mask. There is no norm, pooling or head at the end.

Parameter names are timm's, which the published checkpoints have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastregion.vision.layers import MLP, FusedSelfAttention, scaled_residuals

__all__ = ["PerceptionEncoder", "PerceptionEncoderConfig"]

_EPS = 1e-5  # of all layer norms
_ROTARY_BASE = 10000.0


@dataclass(frozen=True, kw_only=True)
class PerceptionEncoderConfig:
    """Sizes of the tower.

    Attributes:
        hidden_size: width of a token.
        num_layers: number of blocks.
        num_heads: attention heads; the width of one must be a multiple of 4.
        intermediate_size: width inside the MLPs.
        patch_size: pixels a side of a patch.
        image_size: height and width of a tile in pixels, multiples of ``patch_size``.
        reference_grid: rows and columns of patches that the rotary angles were trained with.
        class_token: whether a class token stands in front of the patches.
        grid_offset: added to rows and columns before the rotary angles.
        layer_scale: first value of ``gamma_1`` and ``gamma_2``.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    patch_size: int
    image_size: tuple[int, int]
    reference_grid: tuple[int, int]
    class_token: bool
    grid_offset: int
    layer_scale: float = 0.1

    def __post_init__(self) -> None:
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                "hidden_size must be a multiple of 4 * num_heads (the rotary embedding turns pairs "
                f"along two axes), got {self.hidden_size} and {self.num_heads} heads"
            )
        if any(size < 1 or size % self.patch_size for size in self.image_size):
            raise ValueError(
                f"image_size must be multiples of patch_size {self.patch_size}, "
                f"got {self.image_size}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of a tile."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads


@lru_cache(maxsize=16)
def rotary_table(
    grid: tuple[int, int],
    reference_grid: tuple[int, int],
    grid_offset: int,
    head_dim: int,
    device: torch.device,
) -> Tensor:
    """Rotations ``e^(i angle)`` of all patches, complex64 ``[rows * columns, head_dim / 2]``.

    The first half of the pairs turns with the column, the second with the row, each at the
    frequencies ``10000^(-k / n)`` for ``k`` below ``n = head_dim / 4``. Always float32, whatever
    the dtype of the tower: the angles go up to 32 radians.
    """
    with torch.inference_mode(False):  # the table is kept, and training may use it later
        count = head_dim // 4
        frequencies = _ROTARY_BASE ** (
            -torch.arange(count, dtype=torch.float32, device=device) / count
        )
        axes = [
            (torch.arange(size, dtype=torch.float32, device=device) + grid_offset)
            / size
            * reference
            for size, reference in zip(grid, reference_grid, strict=True)
        ]
        row, column = torch.meshgrid(*axes, indexing="ij")
        angles = torch.cat(
            (
                column.reshape(-1, 1) * frequencies,
                row.reshape(-1, 1) * frequencies,
            ),
            dim=1,
        )
        return torch.polar(torch.ones_like(angles), angles)


def _rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn neighbouring channels of ``x [T, N, heads, head_dim]`` as pairs, in float32.

    Tokens in front of the last ``len(table)`` (the class token) stay as they are.
    """
    rest = x.shape[1] - table.shape[0]
    pairs = x[:, rest:].float().reshape(len(x), len(table), x.shape[2], -1, 2)
    turned = torch.view_as_real(torch.view_as_complex(pairs) * table[:, None])
    turned = turned.flatten(-2).to(x.dtype)
    return torch.cat((x[:, :rest], turned), dim=1) if rest else turned


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled by channel (LayerScale)."""

    def __init__(self, config: PerceptionEncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = FusedSelfAttention(hidden_size=width, num_heads=config.num_heads)
        self.gamma_1 = nn.Parameter(torch.full((width,), config.layer_scale))
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = MLP(hidden_size=width, intermediate_size=config.intermediate_size)
        self.gamma_2 = nn.Parameter(torch.full((width,), config.layer_scale))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """``[T, N, D]`` to the same."""
        branch = self.attn(self.norm1(x), partial(_rotate, table=table))
        return scaled_residuals(x, branch, self.gamma_1, self.norm2, self.mlp, self.gamma_2)


class PatchEmbed(nn.Module):
    """Patch projection: a convolution with stride = kernel, without bias."""

    def __init__(self, config: PerceptionEncoderConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.tile_shape = (3, *config.image_size)
        self.proj = nn.Conv2d(3, config.hidden_size, kernel_size=size, stride=size, bias=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """``[T, 3, H, W]`` to ``[T, N, D]``, patches row-major.

        Raises:
            ValueError: tiles of another shape.
        """
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != self.tile_shape:
            raise ValueError(
                f"pixel_values: must be [T, {', '.join(map(str, self.tile_shape))}], "
                f"got shape {tuple(pixel_values.shape)}"
            )
        y: Tensor = self.proj(pixel_values)
        return y.flatten(2).transpose(1, 2)


class PerceptionEncoder(nn.Module):
    """The tower; see the module for the formula.

    Attributes:
        config: sizes.
        gradient_checkpointing: keep only the inputs of the blocks for the backward pass and
            compute the rest again: less memory for a third more time.
    """

    def __init__(self, config: PerceptionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        width = config.hidden_size
        num_tokens = config.grid[0] * config.grid[1] + config.class_token
        self.patch_embed = PatchEmbed(config)
        self.cls_token = (
            nn.Parameter(0.02 * torch.randn(1, 1, width)) if config.class_token else None
        )
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, num_tokens, width))
        self.norm_pre = nn.LayerNorm(width, eps=_EPS)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))

    def forward(self, pixel_values: Tensor, mask_embedding: Tensor | None = None) -> Tensor:
        """Encode tiles.

        Args:
            pixel_values: ``[T, 3, H, W]`` normalised to -1..1, in the dtype of the weights.
            mask_embedding: ``[T, rows * columns, D]``, added to the projected patches.

        Returns:
            ``[T, N, D]``, the class token first where there is one.

        Raises:
            ValueError: tiles of another shape.
        """
        patches = self.patch_embed(pixel_values)
        if mask_embedding is not None:
            patches = patches + mask_embedding
        return self.encode(patches)

    def encode(self, patches: Tensor) -> Tensor:
        """Run everything behind the patch projection on ``[T, rows * columns, D]``."""
        x: Tensor = self.norm_pre(self.add_positions(patches))
        config = self.config
        table = rotary_table(
            config.grid, config.reference_grid, config.grid_offset, config.head_dim, x.device
        )
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, table, use_reentrant=False)
            else:
                x = block(x, table)
        return x

    def add_positions(self, patches: Tensor) -> Tensor:
        """Prepend the class token, if there is one, and add the learned positions."""
        if self.cls_token is not None:
            patches = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), dim=1)
        placed: Tensor = patches + self.pos_embed
        return placed

    def patch_tokens(self, tokens: Tensor) -> Tensor:
        """The tokens ``[T, N, D]`` without the class token."""
        return tokens[:, 1:] if self.config.class_token else tokens
