"""InternViT: the vision tower of InternVL and URECA.

    x_0 = [cls; P(tile)] + e
    x <- x + ls1 * Attn(norm1(x)),   x <- x + ls2 * MLP(norm2(x))           in every block

``P`` is a convolution with stride = kernel = patch and ``e`` are learned positions, resized
bicubically where tiles are of another size than they were made for. There is no norm behind the
last block. Only as many blocks are computed as the caller asks for.

Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fastregion.vision.layers import MLP, FusedSelfAttention, scaled_residuals

__all__ = ["InternVit", "InternVitConfig"]

_NORMS = {"layer_norm": nn.LayerNorm, "rms_norm": nn.RMSNorm}


@dataclass(frozen=True, kw_only=True)
class InternVitConfig:
    """Sizes of the tower, by the published keys.

    Attributes:
        hidden_size: C, width of a token.
        intermediate_size: width inside the MLPs.
        num_hidden_layers: number of blocks.
        num_attention_heads: attention heads; C is a multiple of it.
        image_size: pixels a side of the tiles that the positions are made for.
        patch_size: pixels a side of a patch.
        qkv_bias: whether queries, keys and values have a bias.
        qk_normalization: whether queries and keys are normalised.
        norm_type: ``"layer_norm"`` or ``"rms_norm"``.
        layer_norm_eps: of all norms.
        initializer_factor: first value of ``ls1`` and ``ls2``.
        drop_path_rate: of a published training; only 0 can be trained with here.
        dropout: the same.
        attention_dropout: the same.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int = 448
    patch_size: int = 14
    qkv_bias: bool = True
    qk_normalization: bool = False
    norm_type: str = "layer_norm"
    layer_norm_eps: float = 1e-6
    initializer_factor: float = 1.0
    drop_path_rate: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                "hidden_size must be a multiple of num_attention_heads, "
                f"got {self.hidden_size} and {self.num_attention_heads}"
            )
        if self.image_size < self.patch_size:
            raise ValueError(
                f"image_size must be at least patch_size {self.patch_size}, got {self.image_size}"
            )
        if self.norm_type not in _NORMS:
            raise ValueError(f"norm_type must be one of {list(_NORMS)}, got {self.norm_type!r}")

    @property
    def grid_size(self) -> int:
        """Patches a side of a tile that the positions are made for."""
        return self.image_size // self.patch_size

    def norm(self) -> nn.Module:
        """A new norm of tokens."""
        made: nn.Module = _NORMS[self.norm_type](self.hidden_size, eps=self.layer_norm_eps)
        return made


class Embeddings(nn.Module):
    """Class token, patches and positions."""

    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        width, patch, self.grid_size = config.hidden_size, config.patch_size, config.grid_size
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Parameter(torch.zeros(1, 1 + self.grid_size**2, width))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """``[T, 3, H, W]`` to ``[T, 1 + rows * columns, C]``, the class token first."""
        patches = self.patch_embedding(pixel_values)
        rows, columns = patches.shape[2:]
        patches = patches.flatten(2).transpose(1, 2)
        first = self.class_embedding.to(patches.dtype).expand(len(patches), -1, -1)
        placed: Tensor = torch.cat((first, patches), dim=1) + self._positions(rows, columns)
        return placed

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Positions ``[1, 1 + rows * columns, C]``."""
        positions, side = self.position_embedding, self.grid_size
        if (rows, columns) == (side, side):  # where resizing is the identity
            return positions
        grid = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        resized = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
        patches = resized.flatten(2).transpose(1, 2).to(positions.dtype)
        return torch.cat((positions[:, :1], patches), dim=1)


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled by channel (LayerScale)."""

    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attn = FusedSelfAttention(
            hidden_size=width,
            num_heads=config.num_attention_heads,
            qkv_bias=config.qkv_bias,
            qk_norm_eps=config.layer_norm_eps if config.qk_normalization else None,
        )
        self.mlp = MLP(hidden_size=width, intermediate_size=config.intermediate_size)
        self.norm1, self.norm2 = config.norm(), config.norm()
        self.ls1 = nn.Parameter(torch.full((width,), config.initializer_factor))
        self.ls2 = nn.Parameter(torch.full((width,), config.initializer_factor))

    def forward(self, x: Tensor) -> Tensor:
        """``[T, N, C]`` to the same."""
        branch = self.attn(self.norm1(x))
        return scaled_residuals(x, branch, self.ls1, self.norm2, self.mlp, self.ls2)


class Encoder(nn.Module):
    """The blocks."""

    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))


class InternVit(nn.Module):
    """The tower; see the module for the formula.

    Attributes:
        config: sizes.
        gradient_checkpointing: keep only the inputs of the blocks for the backward pass and
            compute the rest again.
    """

    def __init__(self, config: InternVitConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def forward(self, pixel_values: Tensor, *, num_layers: int) -> Tensor:
        """Features of tiles.

        Args:
            pixel_values: ``[T, 3, H, W]`` normalised, in the dtype of the weights.
            num_layers: how many blocks are computed.

        Returns:
            ``[T, 1 + rows * columns, C]``, the class token first, not normalised.

        Raises:
            ValueError: tiles of another rank, or no multiples of the patch size.
            NotImplementedError: training with dropout or drop path.
        """
        patch = self.config.patch_size
        if torch.is_grad_enabled() and self.training and self._trained():
            for name in ("drop_path_rate", "dropout", "attention_dropout"):
                if getattr(self.config, name):
                    raise NotImplementedError(
                        f"vision_config.{name}: training with it is not supported; set it to 0"
                    )
        shape = tuple(pixel_values.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[2] % patch or shape[3] % patch:
            raise ValueError(
                f"pixel_values: must be [T, 3, H, W] with H and W multiples of {patch}, "
                f"got shape {shape}"
            )
        x: Tensor = self.embeddings(pixel_values)
        for block in self.encoder.layers[:num_layers]:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x

    def _trained(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())
